-- Leases the messages that are due, oldest due first. ARGV: clock, consumer, max, length of the lease.
-- Returns: the epoch or nothing; the groups that had to be made again; entries without a message; the
-- last entry given out; milliseconds until something is due, -1 for never; the leases, each as token,
-- due, attempt, unsettled, id, value.
--
-- New messages wait in one stream and are read through its group. What comes again (after a backoff, a
-- release, a redrive, or a lease that ran out) gets a new entry in the other stream, which is read in the
-- same breath: an entry is leased once, so its id is the proof of the lease.
local consumer, max, lease_for = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local healed = {}

-- Who has a body and waits nowhere was in a stream that is gone altogether, and waits again. Looking at
-- every message takes seconds for a million, so they are counted first.
local function find_lost()
  local found = redis.call('XLEN', NEW) + redis.call('ZCARD', AGES) + redis.call('ZCARD', DEAD)
  if redis.call('HLEN', MESSAGES) <= found then return end
  local waiting, from = {}, '-'
  repeat
    local page = redis.call('XRANGE', NEW, from, '+', 'COUNT', 1000)
    for _, entry in ipairs(page) do
      waiting[entry[2][2]], from = true, '(' .. entry[1]
    end
  until #page == 0
  for _, id in ipairs(redis.call('HKEYS', MESSAGES)) do
    if not (waiting[id] or redis.call('ZSCORE', AGES, id) or redis.call('ZSCORE', DEAD, id)) then
      redis.call('XADD', NEW, next_entry, 'i', id)
    end
  end
end

-- What came again and is in somebody's hands is due: with its count where its entry still tells it.
local function find_lost_again()
  for _, entry in ipairs(redis.call('XRANGE', AGAIN, '-', '+')) do
    local fields = entry[2]
    redis.call('ZADD', DUE, now, fields[2])
    redis.call('HSET', TRIES, fields[2], (tonumber(fields[4]) - 1) .. ':' .. fields[6])
    redis.call('XDEL', AGAIN, entry[1])
  end
  for _, id in ipairs(redis.call('ZRANGE', AGES, 0, -1)) do
    if not redis.call('ZSCORE', DUE, id) then redis.call('ZADD', DUE, now, id) end
  end
end

-- A group that is gone begins again at 0: from '$' it would skip what came meanwhile.
local function heal(stream)
  redis.call('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
  healed[#healed + 1] = stream
  for _, name in ipairs(redis.call('ZRANGE', LEASES, 0, -1)) do
    if parse_batch(name) == stream then redis.call('ZREM', LEASES, name) end
  end
  if stream == NEW then find_lost() else find_lost_again() end
end

local function read(stream, count)
  local command = {'XREADGROUP', 'GROUP', GROUP, consumer, 'COUNT', count, 'STREAMS', stream, '>'}
  local reply = redis.pcall(unpack(command))
  if reply and reply.err then
    if not string.find(reply.err, 'NOGROUP', 1, true) then return reply end
    heal(stream)
    reply = redis.call(unpack(command))
  end
  return reply and reply[1] and reply[1][2] or {}
end

local function last_given()
  local groups = redis.pcall('XINFO', 'GROUPS', NEW)
  for _, group in ipairs(groups) do
    local facts = {}
    for index = 1, #group, 2 do facts[group[index]] = group[index + 1] end
    if facts.name == GROUP then return facts['last-delivered-id'] end
  end
  return '0-0'
end

-- What is due again: past its backoff, or past a lease that nobody settled.
local function due_again()
  local found = {}
  local delayed = redis.call('ZRANGEBYSCORE', DUE, '-inf', now, 'WITHSCORES', 'LIMIT', 0, max)
  for index = 1, #delayed, 2 do
    found[#found + 1] = {due = tonumber(delayed[index + 1]), id = delayed[index]}
  end
  -- Batches come oldest first; one that has nobody's messages any more hides none behind it.
  local expired, skipped = #found, 0
  while #found - expired < max do
    local batch = redis.call('ZRANGEBYSCORE', LEASES, '-inf', now, 'WITHSCORES', 'LIMIT', skipped, 1)
    if #batch == 0 then break end
    local held, stream = unsettled_of(batch[1], max)
    if #held == 0 then redis.call('ZREM', LEASES, batch[1]) else skipped = skipped + 1 end
    for _, entry in ipairs(held) do
      found[#found + 1] = {due = tonumber(batch[2]), stream = stream, entry = entry[1]}
    end
  end
  table.sort(found, function(one, other) return one.due < other.due end)
  return found
end

-- How many of the new and of those due again are the oldest due.
local function share(again)
  if #again == 0 then return max, 0 end
  local new = redis.call('XRANGE', NEW, '(' .. last_given(), '+', 'COUNT', max)
  local from_new, from_again = 0, 0
  while from_new + from_again < max do
    local next_again, next_new = again[from_again + 1], new[from_new + 1]
    local new_due = next_new and tonumber(string.match(next_new[1], '^%d+'))
    if next_again and (not new_due or next_again.due <= new_due) then
      from_again = from_again + 1
    elseif next_new then
      from_new = from_new + 1
    else
      break
    end
  end
  return from_new, from_again
end

-- Takes a message from where it waits to be due again, into a new entry.
local function put_back(item)
  local id, tries, unsettled = item.id, 0, 0
  if item.entry then
    local found = redis.call('XRANGE', item.stream, item.entry, item.entry)[1]
    if not found then
      redis.call('XACK', item.stream, GROUP, item.entry)
      return false
    end
    local fields = found[2]
    -- Its attempt is not counted, unless the worker has said that it begins (count.lua).
    id, tries, unsettled = fields[2], tonumber(fields[4] or 1) - 1, tonumber(fields[6] or 0) + 1
    local counted = redis.call('HGET', TRIES, id)
    if counted then tries = tonumber(string.match(counted, '^(%d+):')) end
  else
    local counted = redis.call('HGET', TRIES, id) or '0:0'
    tries, unsettled = string.match(counted, '^(%d+):(%d+)$')
  end
  redis.call('XADD', AGAIN, '*', 'i', id, 'a', tries + 1, 'u', unsettled)
  if item.entry then
    redis.call('XACK', item.stream, GROUP, item.entry)
    redis.call('XDEL', item.stream, item.entry)
  else
    redis.call('ZREM', DUE, id)
  end
  redis.call('HDEL', TRIES, id)
  return true
end

local leases, vanished = {}, 0

-- Gives out entries of one stream that were just read, as one batch.
local function give(stream, letter, entries, dues)
  if #entries == 0 then return end
  local ids = {}
  for index, entry in ipairs(entries) do ids[index] = entry[2][2] end
  local values = redis.call('HMGET', MESSAGES, unpack(ids))
  local batch = letter .. '/' .. entries[1][1] .. '/' .. entries[#entries][1]
  redis.call('ZADD', LEASES, now + lease_for, batch)
  for index, entry in ipairs(entries) do
    local fields, value = entry[2], values[index]
    if value then
      if stream == AGAIN then redis.call('ZADD', AGES, received_at(value), ids[index]) end
      local due = dues and dues[index].due or tonumber(string.match(entry[1], '^%d+'))
      local tries, unsettled = tonumber(fields[4] or 1), tonumber(fields[6] or 0)
      leases[#leases + 1] = {batch .. '/' .. entry[1], due, tries, unsettled, ids[index], value}
    else
      redis.call('XACK', stream, GROUP, entry[1])
      redis.call('XDEL', stream, entry[1])
      redis.call('ZREM', AGES, ids[index])
      vanished = vanished + 1
    end
  end
end

-- Nobody would ever look for what was in a group or a stream that is gone.
if redis.pcall('XPENDING', AGAIN, GROUP).err then heal(AGAIN) end
local again = due_again()
local from_new, from_again = share(again)
if from_new > 0 then
  local entries = read(NEW, from_new)
  if entries.err then return entries end
  give(NEW, 'n', entries)
end
local chosen = {}
for index = 1, from_again do
  if put_back(again[index]) then chosen[#chosen + 1] = again[index] end
end
if #chosen > 0 then
  local entries = read(AGAIN, #chosen)
  if entries.err then return entries end
  give(AGAIN, 'a', entries, chosen)
end

local cursor, wait = '', -1
if #leases == 0 then
  cursor = last_given()
  for _, waiting in ipairs({DUE, LEASES}) do
    local first = redis.call('ZRANGE', waiting, 0, 0, 'WITHSCORES')
    if first[2] then
      local left = math.max(tonumber(first[2]) - now, 0)
      if wait < 0 or left < wait then wait = left end
    end
  end
end
return {redis.call('HGET', META, 'epoch'), healed, vanished, cursor, wait, leases}
