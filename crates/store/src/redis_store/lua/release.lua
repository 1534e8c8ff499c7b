-- Keys: five of the job. Arguments: 3 id, 4 token, 5 closing.
local keys = {KEYS[10], KEYS[11], KEYS[12], KEYS[13], KEYS[14]}
local held, answer = leave(keys[1], ARGV[4], ARGV[5])
if not held then return answer end
put_back(keys, ARGV[3], held, 'queued', math.min(held.due, NOW_US))
return 'done'
