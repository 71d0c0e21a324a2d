-- Settles leases. ARGV: clock; for the stream of new messages and for the other stream: number of
-- acknowledged leases, and the entry and id of each; then the number of other settlements, and nine values of
-- each; then names of batches. Returns for each, in that order, 1, or 0 if the lease was lost. Taking over a
-- message creates another entry, so a lease is valid as long as its entry exists.
local answers = {}
local position = 2

local function next_argument()
  position = position + 1
  return ARGV[position - 1]
end

local function delete_messages(stream, ids)
  redis.call('HDEL', MESSAGES, unpack(ids))
  if stream == AGAIN then redis.call('ZREM', AGES, unpack(ids)) end
  -- Present only if the attempt was counted before processing, which is rare.
  redis.call('HDEL', TRIES, unpack(ids))
end

local function is_valid(stream, entry)
  return #redis.call('XRANGE', stream, entry, entry) == 1
end

local function end_lease(stream, entry)
  redis.call('XACK', stream, GROUP, entry)
  redis.call('XDEL', stream, entry)
end

-- All in one step if all leases are valid, which is the usual case.
local function acknowledge(stream)
  local count = tonumber(next_argument())
  if count == 0 then return end
  local entries, ids = {}, {}
  for index = 1, count do entries[index], ids[index] = next_argument(), next_argument() end
  if redis.call('XACK', stream, GROUP, unpack(entries)) == count then
    redis.call('XDEL', stream, unpack(entries))
    delete_messages(stream, ids)
    for _ = 1, count do answers[#answers + 1] = 1 end
    return
  end
  for index = 1, count do
    local held = is_valid(stream, entries[index])
    end_lease(stream, entries[index])
    if held then delete_messages(stream, {ids[index]}) end
    answers[#answers + 1] = held and 1 or 0
  end
end

local function wait_until(due, id, tries, unsettled, received)
  redis.call('ZADD', DUE, due, id)
  redis.call('HSET', TRIES, id, tries .. ':' .. unsettled)
  redis.call('ZADD', AGES, received, id)
end

local function settle_other()
  local how, letter, entry, id = next_argument(), next_argument(), next_argument(), next_argument()
  local tries, unsettled, received = next_argument(), next_argument(), next_argument()
  local after, failure = next_argument(), next_argument()
  local stream = letter == 'n' and NEW or AGAIN
  local held = is_valid(stream, entry)
  answers[#answers + 1] = held and 1 or 0
  if not held then return end
  -- Writes the new location of the message before deleting the old one.
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

acknowledge(NEW)
acknowledge(AGAIN)
local others = tonumber(next_argument())
if others > 0 then
  local before = first_due()
  for _ = 1, others do settle_other() end
  notify_of_due(before)
end
while position <= #ARGV do
  local name = next_argument()
  if #unsettled_of(name, 1) == 0 then redis.call('ZREM', LEASES, name) end
end
return answers
