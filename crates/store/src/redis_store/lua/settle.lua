-- Keys: five of the job. Arguments: 3 id, 4 token, 5 closing, 6 status, 7 result, then further fields.
local keys = {KEYS[10], KEYS[11], KEYS[12], KEYS[13], KEYS[14]}
local held, answer = leave(keys[1], ARGV[4], ARGV[5])
if not held then return answer end
for i = 8, #ARGV, 2 do redis.call('HSET', keys[1], ARGV[i], ARGV[i + 1]) end
finish(keys, ARGV[3], 'running', held.seq, ARGV[6], ARGV[7])
return 'done'
