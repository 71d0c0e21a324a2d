-- Time of the lines of a transaction that a worker has open; null otherwise. The triggers of the change feed would ask the clock
-- and the last line for each row. Only adds: an earlier build leaves it null.

ALTER TABLE changes_state ADD COLUMN line_at TEXT;
