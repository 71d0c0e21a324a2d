-- Discards dead letters permanently. ARGV: clock, an unused number, ids. Returns the number discarded, and 0.
local discarded = 0
for index = 3, #ARGV do
  if redis.call('ZSCORE', DEAD, ARGV[index]) then
    redis.call('HDEL', MESSAGES, ARGV[index])
    redis.call('HDEL', FAILURES, ARGV[index])
    redis.call('ZREM', DEAD, ARGV[index])
    discarded = discarded + 1
  end
end
return {discarded, 0}
