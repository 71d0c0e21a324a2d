-- The trace that a delivery came in (W3C Trace Context), null where it came in none: 16 bytes of its id, 8 of the parent's id,
-- 1 of flags. Only adds: a process of an earlier build that has the file open goes on, and what it moves loses its trace.
ALTER TABLE messages ADD COLUMN traceparent BLOB;
ALTER TABLE dead_letters ADD COLUMN traceparent BLOB;
