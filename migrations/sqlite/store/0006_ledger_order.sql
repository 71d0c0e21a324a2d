-- The ledger's lines of one subject, found without reading the whole ledger: telling a story took seconds, and erasing a
-- person kept the file's lock for as long. Only adds: an earlier build goes on.
CREATE INDEX deliveries_by_subject ON deliveries (subject_id, applied_at);
