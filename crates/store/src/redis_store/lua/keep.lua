#!lua
-- Takes or keeps a budget's keepership. Keys: the entry, the index. Arguments: member, epoch, lease
-- in ms, note, words, channel, prefix of presence channels, budget, ms that an entry is kept, ms for
-- which a keeper that was heard of is surely there.
local clock = redis.call('TIME')
local now = math.floor(clock[1] * 1000 + clock[2] / 1000)
local function int(number)
  return string.format('%.0f', number)
end
local found = redis.call('HMGET', KEYS[1], 'keeper', 'epoch', 'until', 'note', 'notedAt')
local keeper, epoch, till = found[1] or '', tonumber(found[2]) or 0, tonumber(found[3]) or 0
local mine, given = keeper == ARGV[1], tonumber(ARGV[2])
local ours = mine and given > 0 and epoch == given
local present = redis.call('PUBSUB', 'CHANNELS', ARGV[7] .. '*')
if not ours and till > now then
  local listens = false
  for _, channel in ipairs(present) do
    listens = listens or channel == ARGV[7] .. keeper
  end
  -- One that died is followed before its lease ends.
  if not listens then till = math.min(till, (tonumber(found[5]) or 0) + tonumber(ARGV[10])) end
end
-- Who has it and asks for it never heard that it was granted.
local granted = ours or (mine and given == 0) or till <= now
local note, noted_at = '', 0
if granted then
  if not ours then
    epoch = epoch + 1
    note, noted_at = found[4] or '', tonumber(found[5]) or 0
  end
  keeper, till = ARGV[1], now + tonumber(ARGV[3])
  redis.call('HSET', KEYS[1], 'keeper', keeper, 'epoch', int(epoch), 'until', int(till),
    'notedAt', int(now))
  if ARGV[4] ~= '' then
    redis.call('HSET', KEYS[1], 'note', ARGV[4])
    redis.call('ZADD', KEYS[2], int(now), ARGV[8])
    redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', int(now - tonumber(ARGV[9])))
    redis.call('PEXPIRE', KEYS[2], ARGV[9])
  end
  redis.call('PEXPIRE', KEYS[1], ARGV[9])
  if ARGV[5] ~= '' then redis.call('PUBLISH', ARGV[6], ARGV[8] .. '\n' .. ARGV[5]) end
end
return {granted and 1 or 0, keeper, int(epoch), int(now), int(till), note, int(noted_at), present}
