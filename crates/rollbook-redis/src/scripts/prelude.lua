-- Shared by all scripts. KEYS are all keys of one shard, always in this order; ARGV[1] is the current time in
-- milliseconds, or empty for the server's clock.
local NEW, AGAIN, MESSAGES, DUE, TRIES, LEASES, AGES, DEAD, FAILURES, META, REQUESTS, DISCARDED, BELL = unpack(KEYS)
local GROUP = 'workers'

-- Maximum entries per batch, and per call.
local BATCH_MAX = 1000

local now
if ARGV[1] ~= '' then
  now = tonumber(ARGV[1])
else
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Id for the next entry of a stream.
local next_entry = ARGV[1] == '' and '*' or ARGV[1] .. '-*'

-- A message's value starts with one byte of format and eight bytes of receipt time. A truncated value counts
-- as 0 and must not block the other messages of its batch.
local function received_at(value)
  return #value >= 9 and struct.unpack('>i8', string.sub(value, 2, 9)) or 0
end

-- Length of a message's body as received: a compressed body starts with it. A length above the maximum
-- expansion is damage (value.rs).
local function size_of(value)
  local format = string.byte(value, 1)
  local head = (format == 2 or format == 3) and 34 or 9
  local packed = #value - head - 4
  if (format == 1 or format == 3) and packed >= 0 then
    local length = struct.unpack('>I4', string.sub(value, head + 1, head + 4))
    if length <= packed * 255 then return length end
  end
  return math.max(#value - head, 0)
end

-- A count that may be damaged, clamped to `least` and the maximum of an answer: an answer that can't be
-- parsed, or a script that fails, would block all other messages.
local function count_of(text, least)
  local count = tonumber(text)
  if not count or not (count >= least) then return least end
  return math.min(math.floor(count), 4294967294)
end

-- A batch of leases is named by its stream and its first and last entry: no other batch has entries between them.
local function parse_batch(name)
  local letter, first, last = string.match(name, '^(%a)/([^/]+)/([^/]+)$')
  return letter == 'n' and NEW or AGAIN, first, last
end

-- Unsettled entries of a batch, at most `max`; none if the group is missing.
local function unsettled_of(name, max)
  local stream, first, last = parse_batch(name)
  local held = redis.pcall('XPENDING', stream, GROUP, first, last, max)
  return held.err and {} or held, stream
end

-- Dead letters are listed in the order of these positions: by time, then one by one within a millisecond.
local function next_dead_position()
  local last = tonumber(redis.call('HGET', META, 'dead_position') or 0)
  local position = string.format('%.0f', math.max(last + 1, now * 1024))
  redis.call('HSET', META, 'dead_position', position)
  return position
end

-- Due time of the waiting message that is due first, or nothing.
local function first_due()
  return tonumber(redis.call('ZRANGE', DUE, 0, 0, 'WITHSCORES')[2])
end

-- Notifies idle workers if a message is due earlier than `before`, the first due time before the change. The
-- entry has the number of milliseconds until then. A failure is ignored: workers also poll from time to time.
local function notify_of_due(before)
  local first = first_due()
  if first and not (before and before <= first) then
    redis.pcall('XADD', BELL, 'MAXLEN', 1, '*', 'after', string.format('%.0f', math.max(first - now, 0)))
  end
end
