-- When there will be something to claim: milliseconds from now, 0 for now, -1 for not known.
-- Keys: 10 stream. Arguments: 3 group, 4 how long an entry may be pending, in ms.
local stream, group = KEYS[10], ARGV[3]
local next = -1

local function at(millis)
  millis = math.max(0, millis)
  if next < 0 or millis < next then next = millis end
end

local due = redis.call('ZRANGE', DUE, 0, 0, 'WITHSCORES')[2]
if due then at(math.ceil((tonumber(due) - NOW_US) / 1000)) end
local lease = redis.call('ZRANGE', LEASES, 0, 0, 'WITHSCORES')[2]
if lease then at(tonumber(lease) - NOW) end

if redis.call('EXISTS', stream) == 1 then
  local seen, pending = '-', 0
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local found = {}
    for i = 1, #info, 2 do found[info[i]] = info[i + 1] end
    if found['name'] == group then
      seen, pending = '(' .. found['last-delivered-id'], found['pending']
    end
  end
  if #redis.call('XRANGE', stream, seen, '+', 'COUNT', 1) > 0 then at(0) end
  if pending > 0 then
    local oldest = redis.call('XPENDING', stream, group, '-', '+', 1)[1]
    if oldest then at(tonumber(ARGV[4]) - oldest[3]) end
  end
end
return next
