-- Makes what a shard needs where it is new. ARGV: clock, format, shards, epoch.
-- Returns the format, the number of shards and the epoch that are there.
local found = redis.call('HMGET', META, 'format', 'shards', 'epoch')
if not found[1] then
  for _, stream in ipairs({NEW, AGAIN}) do
    -- It may be there: what came after somebody emptied the database needs it as it is.
    redis.pcall('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
  end
  redis.call('HSET', META, 'format', ARGV[2], 'shards', ARGV[3], 'epoch', ARGV[4])
  found = {ARGV[2], ARGV[3], ARGV[4]}
end
return found
