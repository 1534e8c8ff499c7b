-- Appends to a journal. Arguments: 4 id, 5 token, 6 position, 7 most steps, 8 most bytes, 9 '1' if there
-- is a patch, 10 the patch, then the steps.
local key, journal = P .. 'job:' .. ARGV[4], Q .. 'journal:' .. ARGV[4]
local found = try('HMGET', key, 'token', 'state', 'steps', 'journalBytes')
if found.err or found[1] ~= ARGV[5] or found[2] ~= 'running' then return {'lost', 0} end
local at, count = tonumber(ARGV[6]), #ARGV - 10
local have = redis.call('LLEN', journal)
if have ~= tonumber(found[3]) then return {'gone', have} end
if at < have then
  if at + count > have then return {'misplaced', have} end
  for i = 1, count do
    if redis.call('LINDEX', journal, at + i - 1) ~= ARGV[10 + i] then return {'misplaced', have} end
  end
  return {'ok', 0}
end
if at > have then return {'misplaced', have} end
local bytes = tonumber(found[4]) or 0
for i = 1, count do bytes = bytes + #ARGV[10 + i] end
if have + count > tonumber(ARGV[7]) then return {'steps', have + count} end
if bytes > tonumber(ARGV[8]) then return {'journal', bytes} end
for i = 1, count do redis.call('RPUSH', journal, ARGV[10 + i]) end
if count > 0 then
  redis.call('HSET', key, 'steps', have + count, 'journalBytes', int(bytes), 'attempts', 0, 'more', 1)
end
if ARGV[9] == '1' then
  redis.call('SET', Q .. 'patch:' .. ARGV[4], ARGV[10])
  redis.call('HSET', key, 'more', 1)
end
return {'ok', 0}
