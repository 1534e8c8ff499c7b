-- Keys: five of the job. Arguments: 3 id, 4 token, 5 closing, 6 until in ms, 7 why.
local keys = {KEYS[10], KEYS[11], KEYS[12], KEYS[13], KEYS[14]}
local held, answer = leave(keys[1], ARGV[4], ARGV[5])
if not held then return answer end
redis.call('HINCRBY', keys[1], 'waits', 1)
put_back(keys, ARGV[3], held, 'parked', tonumber(ARGV[6]) * 1000, ARGV[7])
return 'done'
