-- Compares bodies with the indexes that lead to them, in steps. ARGV: clock, 1 to repair, what to do, its arguments.
-- Who repairs looks again within the same step, so that nothing that moved meanwhile is touched.
--
-- counts: returns the sizes of messages, new, again, due, dead, ages, failures.
-- hands, span: entries that are in nobody's hands for good: read by the group, but in no batch of leases, or neither
--   ahead of the group nor pending. Their messages are leased for at most as long as the span since they were given.
--   Returns how many.
-- bodies, cursor: a step over the bodies. Returns the next cursor and the ids that neither due, dead nor again have.
-- restore, ids: of these the ones that still have a body and nothing else, and makes them due, or dead where it is
--   known why. Returns how many.
-- index, which, cursor: a step over one index. Returns the next cursor, the members without a message, and those that
--   lacked what belongs to them.
local repairs, what = ARGV[2] == '1', ARGV[3]
local STEP = 256
-- As settle writes it (dead_letters.rs).
local UNKNOWN_FAILURE = '{"reason":"corrupt_entry","detail":"why it was parked is not known: its entry in failures was gone"}'

local function is_in_hand()
  local ids, from = {}, '-'
  repeat
    local page = redis.call('XRANGE', AGAIN, from, '+', 'COUNT', 1000)
    for _, entry in ipairs(page) do ids[entry[2][2]], from = true, '(' .. entry[1] end
  until #page < 1000
  return ids
end

local function waits(id, in_hand)
  return in_hand[id] or redis.call('ZSCORE', DUE, id) or redis.call('ZSCORE', DEAD, id)
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

-- All entries of the group's that are pending, oldest first.
local function pending_of(stream)
  local all, from = {}, '-'
  repeat
    local page = redis.pcall('XPENDING', stream, GROUP, from, '+', 1000)
    if page.err then return nil end
    for _, entry in ipairs(page) do all[#all + 1], from = entry, '(' .. entry[1] end
  until #page < 1000
  return all
end

local function last_given(stream)
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local facts = {}
    for index = 1, #group, 2 do facts[group[index]] = group[index + 1] end
    if facts.name == GROUP then return facts['last-delivered-id'] end
  end
end

-- Entries that the group has passed, or will never come to, and that nobody holds.
local function passed(stream, last, pending)
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

local function hands(span)
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
      found = found + passed(stream, stream == AGAIN and '+' or last_given(stream), pending)
    end
  end
  return found
end

local function bodies(cursor)
  local page = redis.call('HSCAN', MESSAGES, cursor, 'COUNT', 32)
  local in_hand, alone = is_in_hand(), {}
  for index = 1, #page[2], 2 do
    if not waits(page[2][index], in_hand) then alone[#alone + 1] = page[2][index] end
  end
  return {page[1], alone}
end

local function restore()
  local in_hand, found = is_in_hand(), 0
  for index = 4, #ARGV do
    local id = ARGV[index]
    if redis.call('HEXISTS', MESSAGES, id) == 1 and not waits(id, in_hand) then
      found = found + 1
      if not repairs then
        -- It is counted alone.
      elseif redis.call('HEXISTS', FAILURES, id) == 1 then
        redis.call('ZADD', DEAD, next_dead_position(), id)
      else
        make_due(id, nil)
      end
    end
  end
  return found
end

-- What each index lacks: the age of what comes again, the reason of what is dead; and what is none of its members.
local lacks = {
  due = function(id) return not redis.call('ZSCORE', AGES, id), function()
    redis.call('ZADD', AGES, received_at(redis.call('HGET', MESSAGES, id)), id)
  end end,
  dead = function(id) return redis.call('HEXISTS', FAILURES, id) == 0, function()
    redis.call('HSET', FAILURES, id, string.format('%.0f', now) .. ' ' .. UNKNOWN_FAILURE)
  end end,
}
-- A member may have a message that is somewhere else. One that is nowhere is stranded, and needs its member.
local strays = {
  ages = function(id) return redis.call('ZSCORE', DEAD, id) end,
  failures = function(id, in_hand) return in_hand[id] or redis.call('ZSCORE', DUE, id) end,
}

local function index(which, cursor)
  local key = ({due = DUE, dead = DEAD, ages = AGES, failures = FAILURES, tries = TRIES})[which]
  local is_hash = which == 'failures' or which == 'tries'
  local page = redis.call(is_hash and 'HSCAN' or 'ZSCAN', key, cursor, 'COUNT', STEP)
  local in_hand, dangling, lacking = is_in_hand(), 0, 0
  for position = 1, #page[2], 2 do
    local id = page[2][position]
    local is_stray = strays[which] and strays[which](id, in_hand)
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
if what == 'hands' then return hands(tonumber(ARGV[4])) end
if what == 'bodies' then return bodies(ARGV[4]) end
if what == 'restore' then return restore() end
return index(ARGV[4], ARGV[5])
