-- The ledger's lines of one subject, found in the order of their times. In the hash index that this replaces all lines of a
-- busy subject were in one chain, so that each new one cost more than the one before. Only the index changes: an earlier
-- build goes on.
DROP INDEX CONCURRENTLY IF EXISTS deliveries_by_subject_and_age;
CREATE INDEX CONCURRENTLY deliveries_by_subject_and_age ON deliveries (subject_id, applied_at);
DROP INDEX deliveries_by_subject;
ALTER INDEX deliveries_by_subject_and_age RENAME TO deliveries_by_subject;
