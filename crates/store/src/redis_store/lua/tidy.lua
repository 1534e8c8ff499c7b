-- Mends what a crash beside older builds can leave, and forgets consumers that hold nothing and were not
-- seen for long. Arguments: 4 group, 5 ms.
local repos = redis.call('HRANDFIELD', HELD, 64)
for _, repo in ipairs(repos) do
  if string.find(repo, '/', 1, true) then
    count_running(repo)
    reopen(repo)
  end
end
-- What runs is in the leases; older builds have it here too.
redis.call('UNLINK', Q .. 'state:running')
if redis.call('EXISTS', STREAM) == 0 then return 0 end
local consumers, gone = redis.pcall('XINFO', 'CONSUMERS', STREAM, ARGV[4]), 0
if consumers.err then return 0 end
for _, info in ipairs(consumers) do
  local found = {}
  for i = 1, #info, 2 do found[info[i]] = info[i + 1] end
  if found['pending'] == 0 and found['idle'] > tonumber(ARGV[5]) then
    redis.call('XGROUP', 'DELCONSUMER', STREAM, ARGV[4], found['name'])
    gone = gone + 1
  end
end
return gone
