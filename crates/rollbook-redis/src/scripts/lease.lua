-- Leases the messages that are due, oldest due first. ARGV: clock, consumer, lane and number of the request, the
-- most messages, the most bytes of bodies as received, 1 where the first is given whatever its size, length of
-- the lease, the furthest ahead that anything can be due.
-- Returns: the epoch or nothing; the groups that had to be made again; entries without a message; the
-- last entry given out; milliseconds until something is due, -1 for never; the leases, each as token,
-- due, attempt, unsettled, id, value.
--
-- New messages wait in one stream and are read through its group. What comes again (after a backoff, a
-- release, a redrive, or a lease that ran out) gets a new entry in the other stream, which is read in the
-- same breath: an entry is leased once, so its id is the proof of the lease.
local consumer, request, number = ARGV[2], ARGV[2] .. '/' .. ARGV[3], ARGV[4]
local max, room, is_first = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7] == '1'
local lease_for, ahead_max = tonumber(ARGV[8]), tonumber(ARGV[9])
local healed = {}

-- How many bodies are read at first. The next steps double.
local STEP = 8

-- When an entry was made, in milliseconds.
local function entry_time(entry)
  return tonumber(string.match(entry, '^%d+'))
end

-- What an entry of a stream says of its message. All fields at once: a table that grows costs several.
local function item_of(stream, entry, batch)
  local fields = entry[2]
  return {
    stream = stream, entry = entry[1], batch = batch, id = fields[2], due = entry_time(entry[1]),
    tries = count_of(fields[4], 1), unsettled = count_of(fields[6], 0), is_new = stream == NEW
  }
end

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
    redis.call('HSETNX', TRIES, fields[2], (count_of(fields[4], 1) - 1) .. ':' .. count_of(fields[6], 0))
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

local function group_of_new()
  for _, group in ipairs(redis.pcall('XINFO', 'GROUPS', NEW)) do
    local facts = {}
    for index = 1, #group, 2 do facts[group[index]] = group[index + 1] end
    if facts.name == GROUP then return facts end
  end
  return {}
end

local function last_given()
  return group_of_new()['last-delivered-id'] or '0-0'
end

local leases, vanished = {}, 0

-- The bodies of these items, up to the first that there is no room for, and how many items that are. False where
-- there is none. They are read step by step, so that no more is read in vain than was read to some use.
local function read_values(items)
  local values, count, step, largest = {}, 0, STEP, 1
  while count < math.min(#items, max) do
    local ids = {}
    for index = count + 1, math.min(count + step, #items, max) do ids[#ids + 1] = items[index].id end
    for _, value in ipairs(redis.call('HMGET', MESSAGES, unpack(ids))) do
      if value then
        local size = size_of(value)
        if size < 1 then size = 1 end
        if size > room and not is_first then return values, count end
        room, is_first = room - size, false
        if size > largest then largest = size end
      end
      count = count + 1
      values[count] = value
    end
    step = math.max(math.min(2 * step, math.floor(room / largest)), 1)
  end
  return values, count
end

local function hand(batch, entry, item, value)
  leases[#leases + 1] = {batch .. '/' .. entry, item.due, item.tries, item.unsettled, item.id, value}
end

local function end_entry(stream, entry)
  redis.call('XACK', stream, GROUP, entry)
  redis.call('XDEL', stream, entry)
end

-- What has no body any more ends where it stands.
local function forget(item)
  if item.entry then end_entry(item.stream, item.entry) else redis.call('ZREM', DUE, item.id) end
  redis.call('ZREM', AGES, item.id)
  redis.call('HDEL', TRIES, item.id)
  vanished = vanished + 1
end

-- What this very request was given before and still holds: its answer may have been lost on the way. Where the
-- leases stand nothing is written, so that the answer waits for no disk. One that ran out and that nobody took
-- begins anew.
local function held_by_request()
  local items, recorded = {}, redis.call('HGET', REQUESTS, request)
  local recorded_number, names = string.match(recorded or '', '^(%d+) (.*)$')
  if recorded_number ~= number then return items end
  for name in string.gmatch(names, '%S+') do
    local stream, first, last = parse_batch(name)
    local ends = redis.call('ZSCORE', LEASES, name)
    local pending = ends and redis.pcall('XPENDING', stream, GROUP, first, last, BATCH_MAX, consumer) or {}
    local mine = {}
    for _, entry in ipairs(pending.err and {} or pending) do mine[entry[1]] = true end
    if next(mine) and tonumber(ends) <= now then redis.call('ZADD', LEASES, now + lease_for, name) end
    for _, entry in ipairs(next(mine) and redis.call('XRANGE', stream, first, last) or {}) do
      if mine[entry[1]] then items[#items + 1] = item_of(stream, entry, name) end
    end
  end
  return items
end

-- Gives the same leases again. What there is no room for now is released.
local function give_again(items)
  local values, count = read_values(items)
  for index, item in ipairs(items) do
    if index <= count and values[index] then
      hand(item.batch, item.entry, item, values[index])
    elseif index <= count then
      forget(item)
    else
      local value = redis.call('HGET', MESSAGES, item.id)
      redis.call('ZADD', DUE, now, item.id)
      redis.call('HSET', TRIES, item.id, (item.tries - 1) .. ':' .. item.unsettled)
      if value then redis.call('ZADD', AGES, received_at(value), item.id) end
      end_entry(item.stream, item.entry)
    end
  end
end

-- A due time further ahead than any can be was written by a clock that was ahead. Who waits for it is due now; who
-- has it leased may be at work, and keeps it for as long as a lease takes.
local function pull_in()
  for key, due in pairs({[DUE] = now, [LEASES] = now + lease_for}) do
    local far = redis.call('ZRANGEBYSCORE', key, '(' .. string.format('%.0f', now + ahead_max), '+inf', 'LIMIT', 0, BATCH_MAX)
    for _, member in ipairs(far) do redis.call('ZADD', key, due, member) end
  end
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
  for index, item in ipairs(found) do item.place = index end
  table.sort(found, function(one, other)
    return one.due < other.due or (one.due == other.due and one.place < other.place)
  end)
  return found
end

-- How many of the new and of those due again are the oldest due.
local function share(again)
  if #again == 0 then return max, 0 end
  local new = redis.call('XRANGE', NEW, '(' .. last_given(), '+', 'COUNT', max)
  local from_new, from_again = 0, 0
  while from_new + from_again < max do
    local next_again, next_new = again[from_again + 1], new[from_new + 1]
    if next_again and (not next_new or next_again.due <= entry_time(next_new[1])) then
      from_again = from_again + 1
    elseif next_new then
      from_new = from_new + 1
    else
      break
    end
  end
  return from_new, from_again
end

-- Fills in what an item that is due again is: its message and what is counted of it. False where it is gone.
local function look_up(item)
  local counted
  if item.entry then
    local found = redis.call('XRANGE', item.stream, item.entry, item.entry)[1]
    if not found then
      redis.call('XACK', item.stream, GROUP, item.entry)
      return false
    end
    local read = item_of(item.stream, found)
    item.id, item.tries, item.unsettled = read.id, read.tries, read.unsettled + 1
    -- Its attempt is not counted, unless the worker has said that it begins (count.lua).
    counted = redis.call('HGET', TRIES, item.id)
    if counted then item.tries = count_of(string.match(counted, '^(%d+):'), 0) + 1 end
  else
    counted = redis.call('HGET', TRIES, item.id) or '0:0'
    local tries, unsettled = string.match(counted, '^(%d+):(%d+)$')
    item.tries, item.unsettled = count_of(tries, 0) + 1, count_of(unsettled, 0)
  end
  return true
end

-- Takes a message from where it waits to be due again, into a new entry.
local function put_back(item)
  local entry = redis.call('XADD', AGAIN, '*', 'i', item.id, 'a', item.tries, 'u', item.unsettled)
  if item.entry then end_entry(item.stream, item.entry) else redis.call('ZREM', DUE, item.id) end
  redis.call('HDEL', TRIES, item.id)
  item.stream, item.entry = AGAIN, entry
end

-- Both in one list, the oldest due first.
local function merge(entries, again)
  local items, from_again = {}, 1
  local function take_again(until_due)
    while again[from_again] and again[from_again].due <= until_due do
      if look_up(again[from_again]) then items[#items + 1] = again[from_again] end
      from_again = from_again + 1
    end
  end
  for _, entry in ipairs(entries) do
    local item = item_of(NEW, entry)
    if again[from_again] then take_again(item.due) end
    items[#items + 1] = item
  end
  take_again(math.huge)
  return items
end

-- Puts the new that there was no room for back before the group, which reads them again.
local function unread(items, count)
  local entries = {}
  for index = count + 1, #items do
    if items[index].is_new then entries[#entries + 1] = items[index].entry end
  end
  if #entries == 0 then return end
  local time, sequence = string.match(entries[1], '^(%d+)-(%d+)$')
  local before = string.format('%.0f-', time - 1) .. '18446744073709551615'
  if sequence ~= '0' then before = time .. string.format('-%.0f', sequence - 1) end
  local command = {'XGROUP', 'SETID', NEW, GROUP, before}
  -- The group's lag, which autoscalers read, is counted from this.
  local read_so_far = group_of_new()['entries-read']
  if read_so_far then command[6], command[7] = 'ENTRIESREAD', math.max(read_so_far - #entries, 0) end
  redis.call(unpack(command))
  redis.call('XACK', NEW, GROUP, unpack(entries))
end

-- Gives what was just read from one stream out, as one batch, and returns its name.
local function give(letter, items, values)
  if #items == 0 then return end
  local batch = letter .. '/' .. items[1].entry .. '/' .. items[#items].entry
  redis.call('ZADD', LEASES, now + lease_for, batch)
  for index, item in ipairs(items) do
    if letter == 'a' then redis.call('ZADD', AGES, received_at(values[index]), item.id) end
    hand(batch, item.entry, item, values[index])
  end
  return batch
end

-- Reads what was put back just now. What else there is (a script broke off before it had read its own) comes along.
local function give_back(items, values)
  local known, all, all_values = {}, {}, {}
  for index, item in ipairs(items) do known[item.entry] = index end
  local entries = read(AGAIN, #items + STEP)
  if entries.err then return nil, entries end
  for _, entry in ipairs(entries) do
    local index = known[entry[1]]
    local item = index and items[index] or item_of(AGAIN, entry)
    local value = index and values[index] or redis.call('HGET', MESSAGES, item.id)
    if value then all[#all + 1], all_values[#all + 1] = item, value else forget(item) end
  end
  return give('a', all, all_values)
end

local function give_due()
  pull_in()
  local again = due_again()
  local from_new, from_again = share(again)
  local entries = from_new > 0 and read(NEW, from_new) or {}
  if entries.err then return entries end
  for index = #again, from_again + 1, -1 do again[index] = nil end
  local items = merge(entries, again)
  local values, count = read_values(items)
  unread(items, count)
  local new, new_values, back, back_values = {}, {}, {}, {}
  for index = 1, count do
    local item, value = items[index], values[index]
    if not value then
      forget(item)
    elseif item.is_new then
      new[#new + 1], new_values[#new + 1] = item, value
    else
      put_back(item)
      back[#back + 1], back_values[#back + 1] = item, value
    end
  end
  local names = {give('n', new, new_values)}
  if #back > 0 then
    local name, failed = give_back(back, back_values)
    if failed then return failed end
    names[#names + 1] = name
  end
  if #names > 0 then redis.call('HSET', REQUESTS, request, number .. ' ' .. table.concat(names, ' ')) end
end

-- Nobody would ever look for what was in a group or a stream that is gone.
if redis.pcall('XPENDING', AGAIN, GROUP).err then heal(AGAIN) end
local held = held_by_request()
if #held > 0 then give_again(held) end
if #leases == 0 then
  local failed = give_due()
  if failed then return failed end
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
local epoch = redis.call('HGET', META, 'epoch')
if not epoch and #healed == 0 and redis.call('HLEN', MESSAGES) > 0 then epoch = '' end
return {epoch, healed, vanished, cursor, wait, leases}
