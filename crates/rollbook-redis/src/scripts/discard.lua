-- Forgets dead letters for good. ARGV: clock, ids. Returns how many.
local forgotten = 0
for index = 2, #ARGV do
  if redis.call('ZSCORE', DEAD, ARGV[index]) then
    redis.call('HDEL', MESSAGES, ARGV[index])
    redis.call('HDEL', FAILURES, ARGV[index])
    redis.call('ZREM', DEAD, ARGV[index])
    forgotten = forgotten + 1
  end
end
return forgotten
