-- The change feed: one line for each real change of a row, in the order of the commits. The columns mean the same as on
-- Postgres (0012). `rollbook migrate` makes the triggers that write to it, and drops them with `changes = no`. Only adds: an
-- earlier build goes on.

CREATE TABLE changes (
    position   INTEGER PRIMARY KEY AUTOINCREMENT,
    resource   TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    kind       TEXT NOT NULL,
    changed    TEXT NOT NULL,
    origin     TEXT NOT NULL,
    cause      TEXT,
    event_at   TEXT,
    at         TEXT NOT NULL
) STRICT;

-- One row: up to where lines were removed, and, within a transaction that applies readings of Clerk's API, their origin and
-- run.
CREATE TABLE changes_state (
    single          INTEGER PRIMARY KEY CHECK (single = 1),
    removed_through INTEGER NOT NULL,
    reading         TEXT
) STRICT;
INSERT INTO changes_state (single, removed_through) VALUES (1, 0);
