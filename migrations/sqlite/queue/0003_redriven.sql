-- The oldest of the redriven messages, whose numbers are negative: they are found through their rows in leases alone and did
-- not arrive in the order of their times. No row of an ordinary message is in this index. Only adds: an earlier build that has
-- the file open goes on.
CREATE INDEX leases_redriven ON leases (received_at) WHERE seq < 0;
