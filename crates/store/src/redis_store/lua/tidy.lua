-- Forgets consumers that hold nothing and were not seen for long. Keys: 10 stream. Arguments: 3 group, 4 ms.
if redis.call('EXISTS', KEYS[10]) == 0 then return 0 end
local consumers, gone = redis.pcall('XINFO', 'CONSUMERS', KEYS[10], ARGV[3]), 0
if consumers.err then return 0 end
for _, info in ipairs(consumers) do
  local found = {}
  for i = 1, #info, 2 do found[info[i]] = info[i + 1] end
  if found['pending'] == 0 and found['idle'] > tonumber(ARGV[4]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[10], ARGV[3], found['name'])
    gone = gone + 1
  end
end
return gone
