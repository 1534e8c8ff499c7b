-- Begins or ends a pause. Arguments: 4 '1' to begin, 5 'all', or 'owner:' and the owner.
local paused, whom = Q .. 'paused', ARGV[5]
redis.call(ARGV[4] == '1' and 'SADD' or 'SREM', paused, whom)
local all, owners = 0, 0
for _, each in ipairs(redis.call('SMEMBERS', paused)) do
  if each == 'all' then all = 1 else owners = owners + 1 end
end
redis.call('HSET', META, 'all', all, 'owners', owners)
if ARGV[4] == '1' then return 'done' end
if whom == 'all' then
  wake(whom)
  return 'done'
end
for level = 0, 18 do
  local lane = string.format('%02d|%s', level, string.sub(whom, 7))
  if redis.call('ZSCORE', ASIDE, lane) then open_lane(lane) end
end
return 'done'
