-- Forgets dead letters for good. ARGV: clock, ids. Returns how many.
local forgotten = 0
for index = 2, #ARGV do
  if redis.call('ZREM', DEAD, ARGV[index]) == 1 then
    redis.call('HDEL', FAILURES, ARGV[index])
    redis.call('HDEL', MESSAGES, ARGV[index])
    forgotten = forgotten + 1
  end
end
return forgotten
