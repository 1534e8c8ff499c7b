-- Keys: five of the job. Arguments: 3 id, 4 token, 5 closing, 6 after in ms, 7 attempts or crashes, 8 error.
local keys = {KEYS[10], KEYS[11], KEYS[12], KEYS[13], KEYS[14]}
local held, answer = leave(keys[1], ARGV[4], ARGV[5])
if not held then return answer end
local due = NOW + tonumber(ARGV[6])
redis.call('HINCRBY', keys[1], ARGV[7], 1)
redis.call('HSET', keys[1], 'lastError', ARGV[8])
local count = redis.call('HGET', keys[1], 'attempts')
redis.call('HSET', keys[2], 'count', count, 'lastError', ARGV[8], 'retryAfter', iso(due))
put_back(keys, ARGV[3], held, 'queued', due * 1000, ARGV[8])
return 'done'
