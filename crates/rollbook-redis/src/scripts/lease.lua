-- Leases due messages, oldest due time first. ARGV: clock, consumer, lane and number of the request, maximum
-- messages, maximum bytes of bodies as received, 1 if the first message is leased whatever its size, duration
-- of the lease, maximum time until anything can be due. Returns: epoch or nothing; recreated groups; number
-- of entries without a message; last delivered entry; last entry of BELL; milliseconds until something is due, or
-- -1; leases, each as token, due, attempt, unsettled, id, value.
--
-- New messages wait in one stream and are read through its group. A message that is delivered again (after a
-- backoff, a release, a redrive, or an expired lease) gets a new entry in the other stream, which is read in
-- the same call: an entry is leased once, so its id proves the lease.
local consumer, request, number = ARGV[2], ARGV[2] .. '/' .. ARGV[3], ARGV[4]
local max, bytes_left, is_first = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7] == '1'
local lease_for, ahead_max = tonumber(ARGV[8]), tonumber(ARGV[9])
local recreated = {}

-- Number of bodies read in the first step; it doubles.
local STEP = 8

-- Creation time of an entry, in milliseconds.
local function entry_time(entry)
  return tonumber(string.match(entry, '^%d+'))
end

-- Fields of a stream entry. All fields at once, because a growing table costs several allocations.
local function item_of(stream, entry, batch)
  local fields = entry[2]
  return {
    stream = stream, entry = entry[1], batch = batch, id = fields[2], due = entry_time(entry[1]),
    tries = count_of(fields[4], 1), unsettled = count_of(fields[6], 0), is_new = stream == NEW
  }
end

-- Messages with a body but without any index entry were in a lost stream, and are queued again. Scanning a
-- million messages takes seconds, so the sizes are compared first.
local function requeue_lost_new()
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

-- Leased messages of the lost group of AGAIN become due, with their counts if their entries still exist.
local function requeue_lost_again()
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

-- Recreates a group at 0: '$' would skip entries added meanwhile.
local function recreate_group(stream)
  redis.call('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
  recreated[#recreated + 1] = stream
  for _, name in ipairs(redis.call('ZRANGE', LEASES, 0, -1)) do
    if parse_batch(name) == stream then redis.call('ZREM', LEASES, name) end
  end
  if stream == NEW then requeue_lost_new() else requeue_lost_again() end
end

local function read(stream, count)
  local command = {'XREADGROUP', 'GROUP', GROUP, consumer, 'COUNT', count, 'STREAMS', stream, '>'}
  local reply = redis.pcall(unpack(command))
  if reply and reply.err then
    if not string.find(reply.err, 'NOGROUP', 1, true) then return reply end
    recreate_group(stream)
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

local function last_delivered()
  return group_of_new()['last-delivered-id'] or '0-0'
end

local leases, without_message = {}, 0

-- Reads the bodies of these items up to the first one that does not fit, and returns them with the number of
-- items; false for a missing body. Reads in steps, so that at most as much is read in vain as is used.
local function read_values(items)
  local values, count, step, largest = {}, 0, STEP, 1
  while count < math.min(#items, max) do
    local ids = {}
    for index = count + 1, math.min(count + step, #items, max) do ids[#ids + 1] = items[index].id end
    for _, value in ipairs(redis.call('HMGET', MESSAGES, unpack(ids))) do
      if value then
        local size = size_of(value)
        if size < 1 then size = 1 end
        if size > bytes_left and not is_first then return values, count end
        bytes_left, is_first = bytes_left - size, false
        if size > largest then largest = size end
      end
      count = count + 1
      values[count] = value
    end
    step = math.max(math.min(2 * step, math.floor(bytes_left / largest)), 1)
  end
  return values, count
end

local function add_lease(batch, entry, item, value)
  leases[#leases + 1] = {batch .. '/' .. entry, item.due, item.tries, item.unsettled, item.id, value}
end

local function end_entry(stream, entry)
  redis.call('XACK', stream, GROUP, entry)
  redis.call('XDEL', stream, entry)
end

-- Removes an entry without a body.
local function drop_without_body(item)
  if item.entry then end_entry(item.stream, item.entry) else redis.call('ZREM', DUE, item.id) end
  redis.call('ZREM', AGES, item.id)
  redis.call('HDEL', TRIES, item.id)
  without_message = without_message + 1
end

-- Messages already leased to this request: its answer may have been lost. Nothing is written while the leases
-- are valid, so that the answer waits for no disk. An expired lease that was not taken over starts again.
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

-- Returns the same leases again. Those that do not fit any more are released.
local function lease_again(items)
  local values, count = read_values(items)
  for index, item in ipairs(items) do
    if index <= count and values[index] then
      add_lease(item.batch, item.entry, item, values[index])
    elseif index <= count then
      drop_without_body(item)
    else
      local value = redis.call('HGET', MESSAGES, item.id)
      redis.call('ZADD', DUE, now, item.id)
      redis.call('HSET', TRIES, item.id, (item.tries - 1) .. ':' .. item.unsettled)
      if value then redis.call('ZADD', AGES, received_at(value), item.id) end
      end_entry(item.stream, item.entry)
    end
  end
end

-- Corrects due times that are later than possible, written by a clock that was ahead. A waiting message is
-- due now; a leased one may be in work and keeps its lease for one full duration.
local function correct_due_times()
  for key, due in pairs({[DUE] = now, [LEASES] = now + lease_for}) do
    local far = redis.call('ZRANGEBYSCORE', key, '(' .. string.format('%.0f', now + ahead_max), '+inf', 'LIMIT', 0, BATCH_MAX)
    for _, member in ipairs(far) do redis.call('ZADD', key, due, member) end
  end
end

-- Messages that are due again: their backoff has ended, or their lease has expired.
local function due_again()
  local found = {}
  local delayed = redis.call('ZRANGEBYSCORE', DUE, '-inf', now, 'WITHSCORES', 'LIMIT', 0, max)
  for index = 1, #delayed, 2 do
    found[#found + 1] = {due = tonumber(delayed[index + 1]), id = delayed[index]}
  end
  -- Batches come oldest first; an empty one must not hide the ones after it.
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
  for index, item in ipairs(found) do item.rank = index end
  table.sort(found, function(one, other)
    return one.due < other.due or (one.due == other.due and one.rank < other.rank)
  end)
  return found
end

-- Numbers of new and again due messages among the oldest due ones.
local function split_by_due(again)
  if #again == 0 then return max, 0 end
  local new = redis.call('XRANGE', NEW, '(' .. last_delivered(), '+', 'COUNT', max)
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

-- Completes an item that is due again with its message and counts. False if it is gone.
local function load_item(item)
  local counted
  if item.entry then
    local found = redis.call('XRANGE', item.stream, item.entry, item.entry)[1]
    if not found then
      redis.call('XACK', item.stream, GROUP, item.entry)
      return false
    end
    local read = item_of(item.stream, found)
    item.id, item.tries, item.unsettled = read.id, read.tries, read.unsettled + 1
    -- The attempt is not counted, unless the worker has reported its start (count.lua).
    counted = redis.call('HGET', TRIES, item.id)
    if counted then item.tries = count_of(string.match(counted, '^(%d+):'), 0) + 1 end
  else
    counted = redis.call('HGET', TRIES, item.id) or '0:0'
    local tries, unsettled = string.match(counted, '^(%d+):(%d+)$')
    item.tries, item.unsettled = count_of(tries, 0) + 1, count_of(unsettled, 0)
  end
  return true
end

-- Moves a message that is due again into a new entry.
local function move_to_again(item)
  local entry = redis.call('XADD', AGAIN, '*', 'i', item.id, 'a', item.tries, 'u', item.unsettled)
  if item.entry then end_entry(item.stream, item.entry) else redis.call('ZREM', DUE, item.id) end
  redis.call('HDEL', TRIES, item.id)
  item.stream, item.entry = AGAIN, entry
end

-- Merges both into one list, oldest due time first.
local function merge(entries, again)
  local items, from_again = {}, 1
  local function take_again(until_due)
    while again[from_again] and again[from_again].due <= until_due do
      if load_item(again[from_again]) then items[#items + 1] = again[from_again] end
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

-- Moves the group back before the new entries that did not fit, so that it reads them again.
local function return_to_group(items, count)
  local entries = {}
  for index = count + 1, #items do
    if items[index].is_new then entries[#entries + 1] = items[index].entry end
  end
  if #entries == 0 then return end
  local time, sequence = string.match(entries[1], '^(%d+)-(%d+)$')
  local before = string.format('%.0f-', time - 1) .. '18446744073709551615'
  if sequence ~= '0' then before = time .. string.format('-%.0f', sequence - 1) end
  local command = {'XGROUP', 'SETID', NEW, GROUP, before}
  -- Autoscalers read the group's lag, which is computed from this.
  local read_so_far = group_of_new()['entries-read']
  if read_so_far then command[6], command[7] = 'ENTRIESREAD', math.max(read_so_far - #entries, 0) end
  redis.call(unpack(command))
  redis.call('XACK', NEW, GROUP, unpack(entries))
end

-- Leases the entries just read from one stream as one batch, and returns its name.
local function lease_batch(letter, items, values)
  if #items == 0 then return end
  local batch = letter .. '/' .. items[1].entry .. '/' .. items[#items].entry
  redis.call('ZADD', LEASES, now + lease_for, batch)
  for index, item in ipairs(items) do
    if letter == 'a' then redis.call('ZADD', AGES, received_at(values[index]), item.id) end
    add_lease(batch, item.entry, item, values[index])
  end
  return batch
end

-- Reads the entries just added. Others found there (left by a script that failed before reading them) are
-- leased too.
local function lease_moved(items, values)
  local known, all, all_values = {}, {}, {}
  for index, item in ipairs(items) do known[item.entry] = index end
  local entries = read(AGAIN, #items + STEP)
  if entries.err then return nil, entries end
  for _, entry in ipairs(entries) do
    local index = known[entry[1]]
    local item = index and items[index] or item_of(AGAIN, entry)
    local value = index and values[index] or redis.call('HGET', MESSAGES, item.id)
    if value then all[#all + 1], all_values[#all + 1] = item, value else drop_without_body(item) end
  end
  return lease_batch('a', all, all_values)
end

local function lease_due()
  correct_due_times()
  local again = due_again()
  local from_new, from_again = split_by_due(again)
  local entries = from_new > 0 and read(NEW, from_new) or {}
  if entries.err then return entries end
  for index = #again, from_again + 1, -1 do again[index] = nil end
  local items = merge(entries, again)
  local values, count = read_values(items)
  return_to_group(items, count)
  local new, new_values, back, back_values = {}, {}, {}, {}
  for index = 1, count do
    local item, value = items[index], values[index]
    if not value then
      drop_without_body(item)
    elseif item.is_new then
      new[#new + 1], new_values[#new + 1] = item, value
    else
      move_to_again(item)
      back[#back + 1], back_values[#back + 1] = item, value
    end
  end
  local names = {lease_batch('n', new, new_values)}
  if #back > 0 then
    local name, failed = lease_moved(back, back_values)
    if failed then return failed end
    names[#names + 1] = name
  end
  if #names > 0 then redis.call('HSET', REQUESTS, request, number .. ' ' .. table.concat(names, ' ')) end
end

-- Otherwise entries of a missing group or stream would never be found.
if redis.pcall('XPENDING', AGAIN, GROUP).err then recreate_group(AGAIN) end
local held = held_by_request()
if #held > 0 then lease_again(held) end
if #leases == 0 then
  local failed = lease_due()
  if failed then return failed end
end

local cursor, bell, wait = '', '', -1
if #leases == 0 then
  cursor = last_delivered()
  local rung = redis.call('XREVRANGE', BELL, '+', '-', 'COUNT', 1)[1]
  bell = rung and rung[1] or '0-0'
  for _, waiting in ipairs({DUE, LEASES}) do
    local first = redis.call('ZRANGE', waiting, 0, 0, 'WITHSCORES')
    if first[2] then
      local left = math.max(tonumber(first[2]) - now, 0)
      if wait < 0 or left < wait then wait = left end
    end
  end
end
local epoch = redis.call('HGET', META, 'epoch')
if not epoch and #recreated == 0 and redis.call('HLEN', MESSAGES) > 0 then epoch = '' end
return {epoch, recreated, without_message, cursor, bell, wait, leases}
