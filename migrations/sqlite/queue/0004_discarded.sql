-- Records of discarded dead letters, without their bodies: explain shows them. The last ones are kept. Only adds: an earlier
-- build that has the file open goes on, and what it discards has no record.
CREATE TABLE discarded (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    id           TEXT    NOT NULL,              -- svix-id
    discarded_at INTEGER NOT NULL,
    died_at      INTEGER NOT NULL,              -- as in dead_letters, also the following
    attempts     INTEGER NOT NULL,
    reason       TEXT    NOT NULL,
    detail       TEXT    NOT NULL,
    event_type   TEXT
) STRICT;

CREATE INDEX discarded_by_id ON discarded (id);
