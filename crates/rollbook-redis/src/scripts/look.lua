-- Looks at messages that are neither done nor dead, and changes nothing. ARGV: clock, max, run, cursor, ids:
-- at these ids, or where there are none at those behind this cursor of HSCAN.
-- Returns: run, the cursor behind them, the ids that would be more than max, and the others, each as id, value,
-- state, until when, attempts.
--
-- A cursor is a place in the memory of one server: another one (a restart, a failover) hashes otherwise and would
-- skip messages, so there it begins again. A run of a server has an id.
local max, run, cursor = tonumber(ARGV[2]), ARGV[3], ARGV[4]
local ids, values = {unpack(ARGV, 5)}, {}
if #ids > 0 then
  for index, value in ipairs(redis.call('HMGET', MESSAGES, unpack(ids))) do values[ids[index]] = value end
else
  local present = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') or ''
  if present ~= run then run, cursor = present, '0' end
  local page = redis.call('HSCAN', MESSAGES, cursor, 'COUNT', max)
  cursor = page[1]
  for index = 1, #page[2], 2 do
    ids[#ids + 1], values[page[2][index]] = page[2][index], page[2][index + 1]
  end
end

local rows, rest, held, unknown = {}, {}, {}, 0
for _, id in ipairs(ids) do
  if values[id] and not redis.call('ZSCORE', DEAD, id) then
    if #rows < max then rows[#rows + 1] = {id, values[id]} else rest[#rest + 1] = id end
  end
end

-- Who has which message is not known by id. What is in hand is looked through once for the whole page: lanes times
-- their batches, at about a microsecond each.
local dues = {}
for _, row in ipairs(rows) do
  dues[row[1]] = redis.call('ZSCORE', DUE, row[1])
  if not dues[row[1]] then held[row[1]], unknown = false, unknown + 1 end
end
if unknown > 0 then
  local batches = redis.call('ZRANGE', LEASES, 0, -1, 'WITHSCORES')
  for index = 1, #batches, 2 do
    local stream, first, last = parse_batch(batches[index])
    for _, entry in ipairs(redis.call('XRANGE', stream, first, last)) do
      local fields = entry[2]
      if held[fields[2]] == false then
        -- The attempt of a lease is not counted yet, unless its worker has said that it begins (count.lua).
        held[fields[2]] = {tonumber(batches[index + 1]), tonumber(fields[4] or 1) - 1}
        unknown = unknown - 1
      end
    end
    if unknown == 0 then break end
  end
end

for _, row in ipairs(rows) do
  local id, state, ends, tries = row[1], 'waiting', now, 0
  if held[id] then
    state, ends, tries = 'leased', held[id][1], held[id][2]
  elseif dues[id] then
    state, ends = 'delayed', tonumber(dues[id])
  end
  local counted = redis.call('HGET', TRIES, id)
  if counted then tries = tonumber(string.match(counted, '^%d+')) end
  if ends <= now then state = 'waiting' end
  -- Beyond this a number of Lua's is none of Redis's.
  row[3], row[4], row[5] = state, math.min(ends, 2 ^ 53), tries
end
return {run, cursor, rest, rows}
