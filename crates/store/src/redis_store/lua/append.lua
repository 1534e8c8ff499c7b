-- Appends to a journal. Keys: five of the job. Arguments: 3 token, 4 position, 5 most steps, 6 most
-- bytes, 7 '1' if there is a patch, 8 the patch, then the steps.
local key, journal = KEYS[10], KEYS[13]
local found = redis.pcall('HMGET', key, 'token', 'state', 'steps', 'journalBytes')
if found.err or found[1] ~= ARGV[3] or found[2] ~= 'running' then return {'lost', 0} end
local at, count = tonumber(ARGV[4]), #ARGV - 8
local have = redis.call('LLEN', journal)
if have ~= tonumber(found[3]) then return {'gone', have} end
if at < have then
  if at + count > have then return {'misplaced', have} end
  for i = 1, count do
    if redis.call('LINDEX', journal, at + i - 1) ~= ARGV[8 + i] then return {'misplaced', have} end
  end
  return {'ok', 0}
end
if at > have then return {'misplaced', have} end
local bytes = tonumber(found[4]) or 0
for i = 1, count do bytes = bytes + #ARGV[8 + i] end
if have + count > tonumber(ARGV[5]) then return {'steps', have + count} end
if bytes > tonumber(ARGV[6]) then return {'journal', bytes} end
for i = 1, count do redis.call('RPUSH', journal, ARGV[8 + i]) end
if count > 0 then
  redis.call('HSET', key, 'steps', have + count, 'journalBytes', int(bytes), 'attempts', 0)
end
if ARGV[7] == '1' then redis.call('SET', KEYS[14], ARGV[8]) end
return {'ok', 0}
