-- Deletes consumers that were idle for this time and hold no message: deleting a consumer that holds one
-- would lose its lease. Deletes the records of their last requests too. ARGV: clock, milliseconds. Returns
-- the number deleted.
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
