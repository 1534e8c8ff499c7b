-- Keys: five of the job. Arguments: 3 id.
local keys = {KEYS[10], KEYS[11], KEYS[12], KEYS[13], KEYS[14]}
local found = redis.pcall('HMGET', keys[1], 'state', 'seq')
if found.err then return 'corrupt' end
if found[1] == 'ended' then return 'over' end
if found[1] == 'running' then
  redis.call('HSET', keys[1], 'cancel', 1)
  return 'asked'
end
if found[1] ~= 'queued' and found[1] ~= 'parked' then return 'unknown' end
call_off(keys, ARGV[3], found[1], found[2] or int(NOW_US))
return 'ended'
