-- Forgets dead letters for good. ARGV: clock, a number that means nothing here, ids. Returns how many, and 0.
local forgotten = 0
for index = 3, #ARGV do
  if redis.call('ZSCORE', DEAD, ARGV[index]) then
    redis.call('HDEL', MESSAGES, ARGV[index])
    redis.call('HDEL', FAILURES, ARGV[index])
    redis.call('ZREM', DEAD, ARGV[index])
    forgotten = forgotten + 1
  end
end
return {forgotten, 0}
