-- Prolongs leases. Keys: from 10 on the status hashes. Arguments: 3 lease in ms, then for each: job, token.
local answers = {}
for i = 10, #KEYS do
  local id, token = ARGV[4 + (i - 10) * 2], ARGV[5 + (i - 10) * 2]
  local found = redis.pcall('HMGET', KEYS[i], 'token', 'state', 'cancel')
  local answer = 'lost'
  if not found.err and found[1] == token and found[2] == 'running' then
    redis.call('ZADD', LEASES, NOW + tonumber(ARGV[3]), id)
    answer = found[3] == '1' and 'cancel' or 'held'
  end
  answers[#answers + 1] = answer
end
return answers
