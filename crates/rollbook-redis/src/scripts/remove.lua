-- Removes messages permanently, whatever their state. ARGV: clock, start of the part of the stream of new
-- messages that was not searched, count, ids, entries: the entry in that stream if found there, otherwise ''.
-- The ids are distinct. Returns the number of removed messages, the ids of new messages whose entry is
-- unknown, and the earliest receipt time of those: the caller searches and calls again.
local SEARCH_MAX = 1000
local from, count = ARGV[2], tonumber(ARGV[3])
local ids = {unpack(ARGV, 4, 3 + count)}

-- All keys are read before anything is written: a failing script is not rolled back, and an error (a key
-- overwritten by another program) then occurs here, before anything is removed.
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

-- All entries of AGAIN are leased, which are few.
local again = '-'
repeat
  local page = note(AGAIN, redis.call('XRANGE', AGAIN, again, '+', 'COUNT', SEARCH_MAX))
  if #page > 0 then again = '(' .. page[#page][1] end
until #page < SEARCH_MAX
for index = 1, count do
  local entry = ARGV[3 + count + index]
  if entry ~= '' then note(NEW, redis.call('XRANGE', NEW, entry, entry)) end
end
-- The stream of new messages may hold a million: here its start, or the entries added after the caller's
-- search.
local is_searched = #note(NEW, redis.call('XRANGE', NEW, from, '+', 'COUNT', SEARCH_MAX)) < SEARCH_MAX

local removed, gone, unfound, earliest = 0, {}, {}, 2 ^ 53
for index, id in ipairs(ids) do
  local value = values[index]
  if value and not (dead[index] or due[index] or places[id][1] or is_searched) then
    unfound[#unfound + 1], earliest = id, math.min(earliest, received_at(value))
  else
    -- A message without an index entry (its stream was deleted) has only a body.
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
-- Write in any case, see enqueue.lua. "Not found" promises that an earlier removal is durable.
redis.call('HSET', META, 'asked_at', now)
return {removed, unfound, math.max(earliest, 0)}
