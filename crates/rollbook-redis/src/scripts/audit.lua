-- Compares the bodies with the indexes, in steps. ARGV: clock, 1 to repair, step, arguments of the step. A
-- repair checks again within the same step, so that messages moved meanwhile are not changed.
--
-- counts: returns the sizes of messages, new, again, due, dead, ages, failures.
--
-- leases, duration: finds entries without a holder: read by the group but in no batch of leases, or neither
-- after the group's position nor pending. Leases their messages for at most the duration since their delivery.
-- Returns their number.
--
-- bodies, cursor: scans bodies. Returns the next cursor and the ids that are in none of due, dead and again.
--
-- restore, ids: makes those that still have a body and no index entry due, or dead if their reason is known.
-- Returns their number.
--
-- index, which, cursor: scans one index. Returns the next cursor, the number of members without a message, and
-- of members that lacked related data.
local repairs, what = ARGV[2] == '1', ARGV[3]
local STEP = 256
-- Format as in settle.lua (dead_letters.rs).
local UNKNOWN_FAILURE = '{"reason":"corrupt_entry","detail":"reason unknown: its entry in failures was missing"}'

local function leased_ids()
  local ids, from = {}, '-'
  repeat
    local page = redis.call('XRANGE', AGAIN, from, '+', 'COUNT', 1000)
    for _, entry in ipairs(page) do ids[entry[2][2]], from = true, '(' .. entry[1] end
  until #page < 1000
  return ids
end

local function waits(id, leased)
  return leased[id] or redis.call('ZSCORE', DUE, id) or redis.call('ZSCORE', DEAD, id)
end

local function make_due(id, counted)
  local value = redis.call('HGET', MESSAGES, id)
  if not value then return end
  redis.call('ZADD', DUE, now, id)
  if counted then redis.call('HSETNX', TRIES, id, counted) end
  redis.call('ZADD', AGES, received_at(value), id)
end

local function counts()
  return {
    redis.call('HLEN', MESSAGES), redis.call('XLEN', NEW), redis.call('XLEN', AGAIN), redis.call('ZCARD', DUE),
    redis.call('ZCARD', DEAD), redis.call('ZCARD', AGES), redis.call('HLEN', FAILURES)
  }
end

-- All pending entries of the group, oldest first.
local function pending_of(stream)
  local all, from = {}, '-'
  repeat
    local page = redis.pcall('XPENDING', stream, GROUP, from, '+', 1000)
    if page.err then return nil end
    for _, entry in ipairs(page) do all[#all + 1], from = entry, '(' .. entry[1] end
  until #page < 1000
  return all
end

local function last_delivered(stream)
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local facts = {}
    for index = 1, #group, 2 do facts[group[index]] = group[index + 1] end
    if facts.name == GROUP then return facts['last-delivered-id'] end
  end
end

-- Entries that the group has passed or will never read, and that no consumer holds.
local function unheld_entries(stream, last, pending)
  local held, found, from = {}, 0, '-'
  for _, entry in ipairs(pending) do held[entry[1]] = true end
  repeat
    local page = redis.call('XRANGE', stream, from, last, 'COUNT', 1000)
    for _, entry in ipairs(page) do
      from = '(' .. entry[1]
      if not held[entry[1]] then
        local fields = entry[2]
        found = found + 1
        if repairs then
          make_due(fields[2], (count_of(fields[4], 1) - 1) .. ':' .. count_of(fields[6], 0))
          redis.call('XDEL', stream, entry[1])
        end
      end
    end
  until #page < 1000
  return found
end

local function check_leases(span)
  local covered, found = {[NEW] = {}, [AGAIN] = {}}, 0
  for _, name in ipairs(redis.call('ZRANGE', LEASES, 0, -1)) do
    local stream = parse_batch(name)
    for _, entry in ipairs((unsettled_of(name, BATCH_MAX))) do covered[stream][entry[1]] = true end
  end
  for letter, stream in pairs({n = NEW, a = AGAIN}) do
    local pending = pending_of(stream)
    if pending then
      local run = {}
      local function lease_run()
        if #run > 0 and repairs then
          local left = math.max(span - run[#run][3], 0)
          redis.call('ZADD', LEASES, now + left, letter .. '/' .. run[1][1] .. '/' .. run[#run][1])
        end
        run = {}
      end
      for _, entry in ipairs(pending) do
        if covered[stream][entry[1]] or #run == BATCH_MAX then lease_run() end
        if not covered[stream][entry[1]] then run[#run + 1], found = entry, found + 1 end
      end
      lease_run()
      found = found + unheld_entries(stream, stream == AGAIN and '+' or last_delivered(stream), pending)
    end
  end
  return found
end

local function bodies(cursor)
  local page = redis.call('HSCAN', MESSAGES, cursor, 'COUNT', 32)
  local leased, unindexed = leased_ids(), {}
  for index = 1, #page[2], 2 do
    if not waits(page[2][index], leased) then unindexed[#unindexed + 1] = page[2][index] end
  end
  return {page[1], unindexed}
end

local function restore()
  local leased, found = leased_ids(), 0
  for index = 4, #ARGV do
    local id = ARGV[index]
    if redis.call('HEXISTS', MESSAGES, id) == 1 and not waits(id, leased) then
      found = found + 1
      if not repairs then
        -- Only counted.
      elseif redis.call('HEXISTS', FAILURES, id) == 1 then
        redis.call('ZADD', DEAD, next_dead_position(), id)
      else
        make_due(id, nil)
      end
    end
  end
  return found
end

-- Missing data of index members: the receipt time of messages delivered again, the reason of dead letters.
local lacks = {
  due = function(id) return not redis.call('ZSCORE', AGES, id), function()
    redis.call('ZADD', AGES, received_at(redis.call('HGET', MESSAGES, id)), id)
  end end,
  dead = function(id) return redis.call('HEXISTS', FAILURES, id) == 0, function()
    redis.call('HSET', FAILURES, id, string.format('%.0f', now) .. ' ' .. UNKNOWN_FAILURE)
  end end,
}
-- Members of messages that are in another index. A message in no index is stranded, and keeps its member.
local strays = {
  ages = function(id) return redis.call('ZSCORE', DEAD, id) end,
  failures = function(id, leased) return leased[id] or redis.call('ZSCORE', DUE, id) end,
}

local function index(which, cursor)
  local key = ({due = DUE, dead = DEAD, ages = AGES, failures = FAILURES, tries = TRIES})[which]
  local is_hash = which == 'failures' or which == 'tries'
  local page = redis.call(is_hash and 'HSCAN' or 'ZSCAN', key, cursor, 'COUNT', STEP)
  local leased, dangling, lacking = leased_ids(), 0, 0
  for position = 1, #page[2], 2 do
    local id = page[2][position]
    local is_stray = strays[which] and strays[which](id, leased)
    if redis.call('HEXISTS', MESSAGES, id) == 0 or is_stray then
      dangling = dangling + 1
      if repairs then redis.call(is_hash and 'HDEL' or 'ZREM', key, id) end
    elseif lacks[which] then
      local lacks_it, add = lacks[which](id)
      if lacks_it then
        lacking = lacking + 1
        if repairs then add() end
      end
    end
  end
  return {page[1], dangling, lacking}
end

if what == 'counts' then return counts() end
if what == 'bodies' then return bodies(ARGV[4]) end
if what == 'index' then return index(ARGV[4], ARGV[5]) end
local before = repairs and first_due()
local found
if what == 'leases' then found = check_leases(tonumber(ARGV[4])) else found = restore() end
if repairs and found > 0 then notify_of_due(before) end
return found
