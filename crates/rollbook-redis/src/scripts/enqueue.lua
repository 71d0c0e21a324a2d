-- Takes messages in: their bodies into MESSAGES, their ids into the stream of what is new.
-- ARGV: clock, the most that may wait, count, ids, values. No id is there twice.
-- Returns the depth before, and for each 1, 0 or 2: taken, there already, or refused since the limit is reached.
local count = tonumber(ARGV[3])
local known = redis.call('HMGET', MESSAGES, unpack(ARGV, 4, 3 + count))
local depth = redis.call('HLEN', MESSAGES) - redis.call('ZCARD', DEAD)
local room = tonumber(ARGV[2]) - depth
local answers, taken, revived = {}, {}, {}
for index = 1, count do
  local id = ARGV[3 + index]
  local dead = known[index] and redis.call('ZSCORE', DEAD, id)
  if known[index] and not dead then
    answers[index] = 0
  elseif #taken >= room then
    answers[index] = 2
  else
    answers[index] = 1
    taken[#taken + 1] = index
    if dead then revived[#revived + 1] = id end
  end
end
if #taken == 0 then
  -- A write all the same: WAIT and WAITAOF ask about the writes of their own connection only, and
  -- "duplicate" promises the first copy's durability.
  redis.call('HSET', META, 'asked_at', now)
  return {depth, answers}
end

-- The entries before the bodies: a script that fails is not rolled back. An entry without a body is
-- skipped later, and nobody was told that it is there; a body without an entry would be a duplicate
-- of a message that never comes.
local bodies = {}
for position, index in ipairs(taken) do
  local id = ARGV[3 + index]
  redis.call('XADD', NEW, next_entry, 'i', id)
  bodies[2 * position - 1], bodies[2 * position] = id, ARGV[3 + count + index]
end
redis.call('HSET', MESSAGES, unpack(bodies))
for _, id in ipairs(revived) do
  redis.call('ZREM', DEAD, id)
  redis.call('HDEL', FAILURES, id)
end
return {depth, answers}
