-- Deletes consumers that have been silent for so long and own nothing: deleting one that owns a message
-- would lose its lease. What their last requests were given goes with them. ARGV: clock, milliseconds. Returns how many.
local deleted, alive = 0, {}
for _, stream in ipairs({NEW, AGAIN}) do
  local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, GROUP)
  for _, consumer in ipairs(consumers) do
    local facts = {}
    for index = 1, #consumer, 2 do facts[consumer[index]] = consumer[index + 1] end
    if facts.pending == 0 and facts.idle > tonumber(ARGV[2]) then
      redis.call('XGROUP', 'DELCONSUMER', stream, GROUP, facts.name)
      deleted = deleted + 1
    else
      alive[facts.name] = true
    end
  end
end
for _, request in ipairs(redis.call('HKEYS', REQUESTS)) do
  if not alive[string.match(request, '^(.*)/')] then redis.call('HDEL', REQUESTS, request) end
end
return deleted
