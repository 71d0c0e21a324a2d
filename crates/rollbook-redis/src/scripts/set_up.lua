-- Creates the groups and metadata of a new shard, and stores its owner if it has none. ARGV: clock, format,
-- shards, epoch, owner or nothing. Returns the stored format, number of shards, epoch and owner.
local found = redis.call('HMGET', META, 'format', 'shards', 'epoch', 'owner')
if not found[1] then
  local is_new = true
  for _, stream in ipairs({NEW, AGAIN}) do
    -- The group may exist: messages added after the database was emptied need it as it is.
    local made = redis.pcall('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
    if made.err then is_new = false end
  end
  -- If the groups exist, only meta is missing: the epoch marks the data as the old one.
  local epoch = (is_new and '' or 'kept-') .. ARGV[4]
  redis.call('HSET', META, 'format', ARGV[2], 'shards', ARGV[3], 'epoch', epoch)
  found = {ARGV[2], ARGV[3], epoch, found[4]}
end
if not found[4] and ARGV[5] ~= '' then
  redis.call('HSET', META, 'owner', ARGV[5])
  found[4] = ARGV[5]
end
return {found[1], found[2], found[3], found[4] or ''}
