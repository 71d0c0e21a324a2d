-- Reads bodies; read-only. ARGV: clock, maximum bytes as received, ids. Returns the values of the first ids,
-- as many as fit and at least one; false for a missing one.
local room, values = tonumber(ARGV[2]), {}
for index = 3, #ARGV do
  local value = redis.call('HGET', MESSAGES, ARGV[index])
  if value then room = room - size_of(value) end
  if room < 0 and index > 3 then break end
  values[#values + 1] = value
end
return values
