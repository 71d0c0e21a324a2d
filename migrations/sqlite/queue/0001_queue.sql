-- The embedded queue. Only Rollbook reads and writes this file.

-- What is known of each message that is neither done nor dead. The bodies are apart, so that leasing
-- and settling rewrite a few bytes and never a body.
CREATE TABLE messages (
    seq         INTEGER PRIMARY KEY,            -- order of arrival
    id          TEXT    NOT NULL UNIQUE,        -- svix-id
    received_at INTEGER NOT NULL,               -- milliseconds since 1970, like every time here
    due_at      INTEGER NOT NULL,               -- when the message may next be taken: one rule for waiting, backoff and lease
    token       INTEGER,                        -- the lease; null while nobody has the message
    attempts    INTEGER NOT NULL DEFAULT 0,     -- leases, counted when given
    unsettled   INTEGER NOT NULL DEFAULT 0,     -- leases in a row that ended without a settlement
    format      INTEGER NOT NULL DEFAULT 1      -- how the body is stored; 1: as it came
) STRICT;

-- Finds what is due, in order, and counts leases and delays without touching the table.
CREATE INDEX messages_due ON messages (due_at, seq, token);

-- Finds the oldest: a redriven message came early and arrives late, so the order of arrival does not tell.
CREATE INDEX messages_received ON messages (received_at);

CREATE TABLE bodies (
    seq  INTEGER PRIMARY KEY,                   -- of the message
    body BLOB NOT NULL
) STRICT;

CREATE TABLE dead_letters (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    id          TEXT    NOT NULL UNIQUE,
    received_at INTEGER NOT NULL,
    died_at     INTEGER NOT NULL,
    attempts    INTEGER NOT NULL,
    reason      TEXT    NOT NULL,
    detail      TEXT    NOT NULL,
    event_type  TEXT,
    format      INTEGER NOT NULL,
    body        BLOB    NOT NULL
) STRICT;

-- Counts, kept by hand in the transactions that change them: counting a million rows takes too long.
CREATE TABLE counters (
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    depth INTEGER NOT NULL,                     -- rows of messages
    dead  INTEGER NOT NULL,                     -- rows of dead_letters
    token INTEGER NOT NULL                      -- the last lease token given; never given again
) STRICT;

INSERT INTO counters (one, depth, dead, token) VALUES (1, 0, 0, 0);
