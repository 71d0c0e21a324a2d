-- What is still to be done for rows whose parent was deleted or erased: a large cascade goes in small steps, and a row that
-- refuses its change keeps the deletion from no other row. The columns mean the same as on Postgres (0005). Workers write and
-- empty the table; it is empty most of the time. A line about `children` stands for all rows that name this row as their
-- parent, one about a `row` for a single row that could not be changed yet, one about `content` for a single row that is due
-- to lose its content. Only adds: an earlier build goes on, and leaves the lines alone.
CREATE TABLE rollbook_cascades (
    table_name    TEXT NOT NULL,
    id            TEXT NOT NULL,
    what          TEXT NOT NULL CHECK (what IN ('children', 'row', 'content')),
    parent_table  TEXT,
    parent_id     TEXT,
    survivors     INTEGER NOT NULL DEFAULT 0,
    forget_ledger INTEGER NOT NULL DEFAULT 0,
    noted_at      TEXT NOT NULL,
    revision      INTEGER NOT NULL DEFAULT 0,
    attempts      INTEGER NOT NULL DEFAULT 0,
    next_try_at   TEXT NOT NULL,
    last_error    TEXT,
    PRIMARY KEY (table_name, id, what)
) STRICT, WITHOUT ROWID;
