-- The feed has a generation: a random number, which changes when the feed is made anew or its store is restored. A forward
-- remembers the generation of its position, which changes above the position are open, and a pause that its receiver asked
-- for. Only adds: an earlier build goes on.

ALTER TABLE changes_state
    ADD COLUMN generation bigint NOT NULL DEFAULT floor(random() * 9223372036854774784)::bigint;

-- `in_hand` is valid while `position` is `in_hand_at`: an earlier build moves the position alone.
ALTER TABLE forwards
    ADD COLUMN in_hand_at bigint,
    ADD COLUMN in_hand text,
    ADD COLUMN generation bigint,
    ADD COLUMN paused_until timestamptz;
