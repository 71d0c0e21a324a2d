-- Reads bodies, and changes nothing. ARGV: clock, the most bytes as received, ids. Returns the values of the first of
-- these ids, as many as there is room for and at least one: false where there is none.
local room, values = tonumber(ARGV[2]), {}
for index = 3, #ARGV do
  local value = redis.call('HGET', MESSAGES, ARGV[index])
  if value then room = room - size_of(value) end
  if room < 0 and index > 3 then break end
  values[#values + 1] = value
end
return values
