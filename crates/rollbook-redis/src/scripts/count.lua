-- Counts the attempt of a lease before its message is processed. ARGV: clock, letter of its stream, its
-- entry, id, attempt, unsettled. Returns 1, or 0 if the lease was lost.
local stream = ARGV[2] == 'n' and NEW or AGAIN
if #redis.call('XRANGE', stream, ARGV[3], ARGV[3]) == 0 then return 0 end
redis.call('HSET', TRIES, ARGV[4], ARGV[5] .. ':' .. ARGV[6])
return 1
