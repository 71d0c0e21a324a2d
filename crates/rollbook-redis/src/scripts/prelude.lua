-- What all scripts share. KEYS are the keys of one shard, always all and in this order; ARGV[1] is the
-- present moment in milliseconds, or empty for the server's own clock.
local NEW, AGAIN, MESSAGES, DUE, TRIES, LEASES, AGES, DEAD, FAILURES, META, REQUESTS = unpack(KEYS)
local GROUP = 'workers'

-- The most entries of a batch: no more are given in one call.
local BATCH_MAX = 1000

local now
if ARGV[1] ~= '' then
  now = tonumber(ARGV[1])
else
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The id of the next entry of a stream.
local next_entry = ARGV[1] == '' and '*' or ARGV[1] .. '-*'

-- A message's value begins with one byte of format and eight of the moment of its receipt.
-- One that is cut short tells none, and must not keep the others of its batch from their workers.
local function received_at(value)
  return #value >= 9 and struct.unpack('>i8', string.sub(value, 2, 9)) or 0
end

-- The length of a message's body as it was received: a packed one begins with it. A length that no packing reaches
-- is damage (value.rs).
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

-- A count that someone may have damaged, from `least` to what an answer can hold: an answer that cannot be read, or a
-- script that breaks off, would keep all other messages from their workers.
local function count_of(text, least)
  local count = tonumber(text)
  if not count or not (count >= least) then return least end
  return math.min(math.floor(count), 4294967294)
end

-- A batch of leases is named by its stream and its first and last entry: no other batch lies between.
local function parse_batch(name)
  local letter, first, last = string.match(name, '^(%a)/([^/]+)/([^/]+)$')
  return letter == 'n' and NEW or AGAIN, first, last
end

-- The entries of a batch that nobody has settled, at most this many; none where the group is gone.
local function unsettled_of(name, max)
  local stream, first, last = parse_batch(name)
  local held = redis.pcall('XPENDING', stream, GROUP, first, last, max)
  return held.err and {} or held, stream
end

-- Dead letters are listed in the order of these numbers: by time, and one by one within a millisecond.
local function next_dead_position()
  local last = tonumber(redis.call('HGET', META, 'dead_position') or 0)
  local position = string.format('%.0f', math.max(last + 1, now * 1024))
  redis.call('HSET', META, 'dead_position', position)
  return position
end
