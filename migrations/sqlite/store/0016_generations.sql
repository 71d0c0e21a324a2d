-- The feed has a generation, and a forward remembers it. The columns mean the same as on Postgres (0016). Only adds: an earlier
-- build goes on.

ALTER TABLE changes_state ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;
UPDATE changes_state SET generation = random() & 9223372036854775807;

ALTER TABLE forwards ADD COLUMN in_hand_at INTEGER;
ALTER TABLE forwards ADD COLUMN in_hand TEXT;
ALTER TABLE forwards ADD COLUMN generation INTEGER;
ALTER TABLE forwards ADD COLUMN paused_until TEXT;
