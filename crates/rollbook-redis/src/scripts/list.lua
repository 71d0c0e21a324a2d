-- Lists messages that are not settled; read-only. ARGV: clock, max, maximum bytes of bodies as
-- received, run, cursor, ids: reads these ids, or without ids the messages after this HSCAN cursor. Returns:
-- run, next cursor, ids that did not fit, and the messages, each as id, value, state, end of the state,
-- attempts.
--
-- A cursor is valid for the memory of one server run: another server (restart, failover) hashes differently
-- and would skip messages, so the scan starts again there. The run id identifies the run.
local max, room, run, cursor = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5]

-- Maximum read in one step: messages that do not fit are read in vain.
local STEP = 32

local rows, rest, held, unknown = {}, {}, {}, 0

local function is_full()
  return #rows >= max or #rest > 0
end

local function add(id, value)
  if not value or redis.call('ZSCORE', DEAD, id) then return end
  local size = size_of(value)
  if is_full() or (size > room and #rows > 0) then
    rest[#rest + 1] = id
  else
    rows[#rows + 1], room = {id, value}, room - size
  end
end

if #ARGV > 5 then
  for index = 6, #ARGV do
    if is_full() then rest[#rest + 1] = ARGV[index] else add(ARGV[index], redis.call('HGET', MESSAGES, ARGV[index])) end
  end
else
  local present = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') or ''
  if present ~= run then run, cursor = present, '0' end
  -- At most as many steps as a page without dead letters needs: among many dead letters few messages are
  -- found, and the server must not be blocked for long.
  local steps = math.ceil(max / STEP)
  repeat
    local page = redis.call('HSCAN', MESSAGES, cursor, 'COUNT', math.min(max, STEP))
    cursor, steps = page[1], steps - 1
    for index = 1, #page[2], 2 do add(page[2][index], page[2][index + 1]) end
  until cursor == '0' or steps <= 0 or is_full()
end

-- Holders are not indexed by id. The leased entries are scanned once for the complete page: lanes times batch
-- size, about a microsecond each.
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
        -- The attempt of a lease is not counted yet, unless its worker has reported the start (count.lua).
        held[fields[2]] = {tonumber(batches[index + 1]), count_of(fields[4], 1) - 1}
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
  if counted then tries = count_of(string.match(counted, '^%d+'), 0) end
  if ends <= now then state = 'waiting' end
  -- Lua numbers above this can't be returned as Redis integers.
  row[3], row[4], row[5] = state, math.min(ends, 2 ^ 53), tries
end
return {run, cursor, rest, rows}
