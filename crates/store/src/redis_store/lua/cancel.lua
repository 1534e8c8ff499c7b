-- Arguments: 4 id.
local id = ARGV[4]
local key = P .. 'job:' .. id
local row = try('HMGET', key, 'state', 'seq', 'place', 'cancel', 'told', 'steps', 'unique')
if row.err then return 'corrupt' end
local state = row[1]
if state == 'ended' then return 'over' end
if state ~= 'running' and state ~= 'queued' and state ~= 'parked' then return 'unknown' end
if row[4] then return 'asked' end
redis.call('HSET', key, 'cancel', 1)
if state == 'running' then return 'asked' end
local job = {key = key, state = state, seq = row[2] or int(NOW_US), place = row[3], cancel = '1', told = false,
  steps = tonumber(row[6]) or 0, unique = row[7], more = '1'}
wait_again(id, job, 'queued', NOW_US, nil, {})
after_leaving()
return job.steps == 0 and 'ended' or 'asked'
