-- The ledger's lines of one subject, found without reading the whole ledger: that took seconds at two million lines. An index by subject
-- alone would write another page for nearly each line. In this one the lines of a minute are side by side, so that those of a batch share
-- pages: who looks for a subject asks each minute. Only adds: an earlier build goes on.
CREATE INDEX deliveries_by_minute ON deliveries (substr(applied_at, 1, 16), subject_id);
