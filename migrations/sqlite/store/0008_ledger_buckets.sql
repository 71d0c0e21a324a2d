-- The ledger's lines of one subject, in an index that costs a batch as little as the one by age. Lines get a number of their bucket,
-- 1,000 lines each; the lines of a bucket are next to each other in the index, so that a batch writes the pages of one bucket at most,
-- however many lines a second come. In the index by minute each line of a busy minute wrote a page of its own. A query by subject asks
-- each bucket. Lines from before, and those of an earlier build, are in bucket 0. Only adds: an earlier build goes on, and reads the
-- ledger once for `explain`.
ALTER TABLE deliveries ADD COLUMN bucket INTEGER NOT NULL DEFAULT 0;
DROP INDEX deliveries_by_minute;
CREATE INDEX deliveries_by_bucket ON deliveries (bucket, subject_id);
