-- The embedded queue. Only Rollbook reads and writes this file. Times are milliseconds since 1970.

-- Every message that is neither done nor dead. Taking one in writes here and nowhere else.
CREATE TABLE messages (
    seq         INTEGER PRIMARY KEY,            -- order of arrival; never given twice
    id          TEXT    NOT NULL UNIQUE,        -- svix-id
    received_at INTEGER NOT NULL,               -- by the receiver
    enqueued_at INTEGER NOT NULL,               -- due from then on, until it is leased
    format      INTEGER NOT NULL DEFAULT 1,     -- how the body is stored; 1: as it came
    body        BLOB    NOT NULL
) STRICT;

-- What has been done with a message: a row from its first lease on, and for a redriven one at once. Apart
-- from the bodies, so that leasing, retrying and releasing never rewrite one.
CREATE TABLE leases (
    seq         INTEGER PRIMARY KEY,            -- of the message
    due_at      INTEGER NOT NULL,               -- when it may next be taken: one rule for lease and backoff
    token       INTEGER,                        -- names the lease; null while nobody has the message
    attempts    INTEGER NOT NULL,               -- leases, counted when given
    unsettled   INTEGER NOT NULL,               -- leases in a row that ended without a settlement
    received_at INTEGER NOT NULL                -- as in messages: finds the oldest
) STRICT;

-- Finds what is due, in order, and tells all that the metrics ask for without touching the table.
CREATE INDEX leases_due ON leases (due_at, seq, token, received_at);

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

-- Kept by hand in the transactions that change them: counting a million rows takes too long.
CREATE TABLE counters (
    one       INTEGER PRIMARY KEY CHECK (one = 1),
    depth     INTEGER NOT NULL,                 -- rows of messages
    dead      INTEGER NOT NULL,                 -- rows of dead_letters
    seq       INTEGER NOT NULL,                 -- the last seq given
    leased_to INTEGER NOT NULL,                 -- messages beyond this seq have not been leased yet
    token     INTEGER NOT NULL                  -- the last lease token given; never given again
) STRICT;

INSERT INTO counters (one, depth, dead, seq, leased_to, token) VALUES (1, 0, 0, 0, 0, 0);
