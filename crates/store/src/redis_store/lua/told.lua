-- Which runs are to call their job off; they know from then on. Arguments: from 4 on for each: job, token.
local answers = {}
for at = 4, #ARGV, 2 do
  local key = P .. 'job:' .. ARGV[at]
  local found = try('HMGET', key, 'token', 'state', 'cancel', 'told')
  local asked = not found.err and found[1] == ARGV[at + 1] and found[2] == 'running' and found[3]
  if asked and not found[4] then redis.call('HSET', key, 'told', 1) end
  answers[#answers + 1] = asked and 1 or 0
end
return answers
