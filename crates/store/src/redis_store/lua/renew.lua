-- Prolongs leases. Arguments: 4 lease in ms, then for each: job, token.
local answers = {}
for at = 5, #ARGV, 2 do
  local id, token = ARGV[at], ARGV[at + 1]
  local found = try('HMGET', P .. 'job:' .. id, 'token', 'state', 'cancel', 'told')
  local answer = 'lost'
  if not found.err and found[1] == token and found[2] == 'running' then
    later('ZADD', LEASES, NOW + ARGV[4], id)
    answer = found[3] and 'cancel' or 'held'
    if found[3] and not found[4] then redis.call('HSET', P .. 'job:' .. id, 'told', 1) end
  end
  answers[#answers + 1] = answer
end
do_gathered()
return answers
