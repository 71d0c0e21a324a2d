-- Redrives dead letters. ARGV: clock, maximum messages that are not settled, ids. Returns the number redriven, and 1 if
-- the limit stopped the others.
local room = tonumber(ARGV[2]) - redis.call('HLEN', MESSAGES) + redis.call('ZCARD', DEAD)
local moved, is_full, before = 0, 0, first_due()
for index = 3, #ARGV do
  local id = ARGV[index]
  if moved >= room then
    is_full = 1
    break
  end
  local value = redis.call('HGET', MESSAGES, id)
  if value and redis.call('ZSCORE', DEAD, id) then
    redis.call('ZADD', DUE, now, id)
    redis.call('HSET', TRIES, id, '0:0')
    redis.call('ZADD', AGES, received_at(value), id)
    redis.call('ZREM', DEAD, id)
    redis.call('HDEL', FAILURES, id)
    moved = moved + 1
  end
end
if moved > 0 then notify_of_due(before) end
return {moved, is_full}
