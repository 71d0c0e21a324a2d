-- Removes messages for good, whatever their state. ARGV: clock, where the stream of the new has not been searched
-- yet, count, ids, entries: of each that was found in that stream its entry there, of the others ''. No id is there twice.
-- Returns how many were there, and of those that are new and whose entry is not known the ids, and when the first of
-- them was received: the caller searches and asks again.
local SEARCH_MAX = 1000
local from, count = ARGV[2], tonumber(ARGV[3])
local ids = {unpack(ARGV, 4, 3 + count)}

-- All is looked at before anything is written: a script that fails is not rolled back, and what would make
-- it fail (a key that someone else has overwritten) does so here, where nothing is half removed.
local values = redis.call('HMGET', MESSAGES, unpack(ids))
local dead, due = redis.call('ZMSCORE', DEAD, unpack(ids)), redis.call('ZMSCORE', DUE, unpack(ids))
redis.call('ZMSCORE', AGES, unpack(ids))
redis.call('HMGET', TRIES, unpack(ids))
redis.call('HMGET', FAILURES, unpack(ids))
local batches = redis.call('ZRANGE', LEASES, 0, -1)

local places = {}
for _, id in ipairs(ids) do places[id] = {} end

local function note(stream, entries)
  for _, entry in ipairs(entries) do
    local found = places[entry[2][2]]
    if found then found[#found + 1] = {stream, entry[1]} end
  end
  return entries
end

-- All that has come again and has an entry is in somebody's hands, which is little.
local again = '-'
repeat
  local page = note(AGAIN, redis.call('XRANGE', AGAIN, again, '+', 'COUNT', SEARCH_MAX))
  if #page > 0 then again = '(' .. page[#page][1] end
until #page < SEARCH_MAX
for index = 1, count do
  local entry = ARGV[3 + count + index]
  if entry ~= '' then note(NEW, redis.call('XRANGE', NEW, entry, entry)) end
end
-- The new may be a million: here the beginning, or what came after the caller had searched.
local is_searched = #note(NEW, redis.call('XRANGE', NEW, from, '+', 'COUNT', SEARCH_MAX)) < SEARCH_MAX

local removed, gone, unfound, earliest = 0, {}, {}, 2 ^ 53
for index, id in ipairs(ids) do
  local value = values[index]
  if value and not (dead[index] or due[index] or places[id][1] or is_searched) then
    unfound[#unfound + 1], earliest = id, math.min(earliest, received_at(value))
  else
    -- One that is nowhere (its stream was deleted) has a body alone.
    gone[#gone + 1], removed = id, removed + (value and 1 or 0)
  end
end

if #gone > 0 then
  redis.call('HDEL', MESSAGES, unpack(gone))
  local ended = 0
  for _, id in ipairs(gone) do
    for _, place in ipairs(places[id]) do
      ended = ended + redis.call('XACK', place[1], GROUP, place[2])
      redis.call('XDEL', place[1], place[2])
    end
  end
  for _, key in ipairs({DUE, AGES, DEAD}) do redis.call('ZREM', key, unpack(gone)) end
  for _, key in ipairs({TRIES, FAILURES}) do redis.call('HDEL', key, unpack(gone)) end
  for _, name in ipairs(ended > 0 and batches or {}) do
    if #unsettled_of(name, 1) == 0 then redis.call('ZREM', LEASES, name) end
  end
end
-- A write in any case: see enqueue. "Not there" promises that an earlier removal is durable.
redis.call('HSET', META, 'asked_at', now)
return {removed, unfound, math.max(earliest, 0)}
