-- Enqueues messages: bodies into MESSAGES, ids into the stream of new messages. ARGV: clock, maximum waiting
-- messages, count, ids, values. The ids are distinct. Returns the depth before, and for each message 1
-- (queued), 0 (duplicate) or 2 (refused at the limit).
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
  -- Write in any case: WAIT and WAITAOF concern only the writes of their own connection, and
  -- "duplicate" promises that the first copy is durable.
  redis.call('HSET', META, 'asked_at', now)
  return {depth, answers}
end

-- Entries before bodies, because a failing script is not rolled back. An entry without a body is skipped
-- later and was never acknowledged; a body without an entry would make the retry a duplicate of a message
-- that is never delivered.
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
