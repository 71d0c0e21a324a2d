-- Counts messages. ARGV: clock. Returns depth, leased, delayed, dead, and the receipt time of the oldest
-- message or nothing.
local function pending(stream)
  local summary = redis.pcall('XPENDING', stream, GROUP)
  return summary.err and 0 or summary[1]
end

local leased = pending(NEW) + pending(AGAIN)
for _, name in ipairs(redis.call('ZRANGEBYSCORE', LEASES, '-inf', now)) do
  leased = leased - #unsettled_of(name, 1000000)
end
local oldest = redis.call('ZRANGE', AGES, 0, 0, 'WITHSCORES')[2]
local first = redis.call('XRANGE', NEW, '-', '+', 'COUNT', 1)[1]
local value = first and redis.call('HGET', MESSAGES, first[2][2])
if value then
  local received = received_at(value)
  if not oldest or received < tonumber(oldest) then oldest = string.format('%.0f', received) end
end
local dead = redis.call('ZCARD', DEAD)
local delayed = redis.call('ZCOUNT', DUE, '(' .. string.format('%.0f', now), '+inf')
return {redis.call('HLEN', MESSAGES) - dead, leased, delayed, dead, oldest or false}
