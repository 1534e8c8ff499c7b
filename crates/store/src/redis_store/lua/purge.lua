-- Removes ended jobs whose time is over. Keys: from 10 on five for each job. Arguments: from 3 on the ids.
local gone = 0
for i = 3, #ARGV do
  local first = 10 + (i - 3) * 5
  local ended = redis.call('ZSCORE', ENDED, ARGV[i])
  if ended and tonumber(ended) <= NOW - KEEP_MS then
    redis.call('UNLINK', KEYS[first], KEYS[first + 1], KEYS[first + 2], KEYS[first + 3], KEYS[first + 4])
    redis.call('ZREM', ENDED, ARGV[i])
    redis.call('ZREM', SETS.ended, ARGV[i])
    gone = gone + 1
  end
end
return gone
