-- Discards dead letters permanently, and records each without its body. ARGV: clock, maximum number of records, ids.
-- Returns the number discarded, and 0.
local discarded = 0
for index = 3, #ARGV do
  local id = ARGV[index]
  if redis.call('ZSCORE', DEAD, id) then
    local failure = redis.call('HGET', FAILURES, id) or ''
    redis.call('XADD', DISCARDED, 'MAXLEN', ARGV[2], next_entry, 'i', id, 'f', failure)
    redis.call('HDEL', MESSAGES, id)
    redis.call('HDEL', FAILURES, id)
    redis.call('ZREM', DEAD, id)
    discarded = discarded + 1
  end
end
return {discarded, 0}
