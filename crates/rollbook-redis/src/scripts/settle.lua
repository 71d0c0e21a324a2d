-- Ends leases. ARGV: clock; then for the stream of the new and for the other: how many are done, and of
-- each its entry and id; then how many end otherwise, and of each nine values; then the batches' names.
-- Returns for each, in that order, 1, or 0 where the lease was lost. Whoever took a message over gave it
-- another entry, so a lease stands as long as its entry is there.
local answers = {}
local position = 2

local function next_argument()
  position = position + 1
  return ARGV[position - 1]
end

local function forget(stream, ids)
  redis.call('HDEL', MESSAGES, unpack(ids))
  if stream == AGAIN then redis.call('ZREM', AGES, unpack(ids)) end
  -- Where the attempt was counted beforehand, which is rare.
  redis.call('HDEL', TRIES, unpack(ids))
end

local function stands(stream, entry)
  return #redis.call('XRANGE', stream, entry, entry) == 1
end

local function end_lease(stream, entry)
  redis.call('XACK', stream, GROUP, entry)
  redis.call('XDEL', stream, entry)
end

-- All at once where all stand, as is usual.
local function done(stream)
  local count = tonumber(next_argument())
  if count == 0 then return end
  local entries, ids = {}, {}
  for index = 1, count do entries[index], ids[index] = next_argument(), next_argument() end
  if redis.call('XACK', stream, GROUP, unpack(entries)) == count then
    redis.call('XDEL', stream, unpack(entries))
    forget(stream, ids)
    for _ = 1, count do answers[#answers + 1] = 1 end
    return
  end
  for index = 1, count do
    local held = stands(stream, entries[index])
    end_lease(stream, entries[index])
    if held then forget(stream, {ids[index]}) end
    answers[#answers + 1] = held and 1 or 0
  end
end

local function wait_until(due, id, tries, unsettled, received)
  redis.call('ZADD', DUE, due, id)
  redis.call('HSET', TRIES, id, tries .. ':' .. unsettled)
  redis.call('ZADD', AGES, received, id)
end

local function end_otherwise()
  local how, letter, entry, id = next_argument(), next_argument(), next_argument(), next_argument()
  local tries, unsettled, received = next_argument(), next_argument(), next_argument()
  local after, failure = next_argument(), next_argument()
  local stream = letter == 'n' and NEW or AGAIN
  local held = stands(stream, entry)
  answers[#answers + 1] = held and 1 or 0
  if not held then return end
  -- The message is where it goes before it is gone from where it was.
  if how == 'retry' then
    wait_until(now + tonumber(after), id, tries, 0, received)
  elseif how == 'release' then
    wait_until(now + tonumber(after), id, tries - 1, unsettled, received)
  elseif how == 'dead' then
    redis.call('ZADD', DEAD, next_dead_position(), id)
    redis.call('HSET', FAILURES, id, string.format('%.0f', now) .. ' ' .. failure)
    redis.call('ZREM', AGES, id)
    redis.call('HDEL', TRIES, id)
  end
  end_lease(stream, entry)
end

done(NEW)
done(AGAIN)
for _ = 1, tonumber(next_argument()) do end_otherwise() end
while position <= #ARGV do
  local name = next_argument()
  if #unsettled_of(name, 1) == 0 then redis.call('ZREM', LEASES, name) end
end
return answers
