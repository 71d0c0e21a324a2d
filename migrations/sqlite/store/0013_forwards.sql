-- Forwards of the change feed: how far each came, and the changes that it could not deliver. Ids only, as in `changes`. The
-- columns mean the same as on Postgres (0013). Only adds: an earlier build goes on.

CREATE TABLE forwards (
    name        TEXT PRIMARY KEY,
    position    INTEGER NOT NULL,
    epoch       INTEGER NOT NULL,
    holder      TEXT,
    held_until  TEXT,
    stopped_at  TEXT,
    stop_reason TEXT,
    saved_at    TEXT NOT NULL
) STRICT;

CREATE TABLE forward_changes (
    forward     TEXT NOT NULL,
    position    INTEGER NOT NULL,
    resource    TEXT NOT NULL,
    subject_id  TEXT NOT NULL,
    kind        TEXT NOT NULL,
    changed     TEXT NOT NULL,
    origin      TEXT NOT NULL,
    cause       TEXT,
    event_at    TEXT,
    at          TEXT NOT NULL,
    state       TEXT NOT NULL,
    tries       INTEGER NOT NULL,
    attempts    INTEGER NOT NULL,
    failed_at   TEXT,
    next_try_at TEXT NOT NULL,
    last_error  TEXT,
    PRIMARY KEY (forward, position)
) STRICT, WITHOUT ROWID;
