-- Makes what a shard needs where it is new, and says who owns it where nobody does. ARGV: clock, format, shards,
-- epoch, owner or nothing. Returns the format, the number of shards, the epoch and the owner that are there.
local found = redis.call('HMGET', META, 'format', 'shards', 'epoch', 'owner')
if not found[1] then
  local is_new = true
  for _, stream in ipairs({NEW, AGAIN}) do
    -- It may be there: what came after somebody emptied the database needs it as it is.
    local made = redis.pcall('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
    if made.err then is_new = false end
  end
  -- Where the groups are there, meta alone is gone: the epoch says that the data are the old ones.
  local epoch = (is_new and '' or 'kept-') .. ARGV[4]
  redis.call('HSET', META, 'format', ARGV[2], 'shards', ARGV[3], 'epoch', epoch)
  found = {ARGV[2], ARGV[3], epoch, found[4]}
end
if not found[4] and ARGV[5] ~= '' then
  redis.call('HSET', META, 'owner', ARGV[5])
  found[4] = ARGV[5]
end
return {found[1], found[2], found[3], found[4] or ''}
