-- Any end of a run.
local function closed(kind, id, token, closing, first, count)
  local key = P .. 'job:' .. id
  local row = try('HMGET', key, 'state', 'token', 'seq', 'place', 'cancel', 'more')
  if row.err or row[2] ~= token then return 'lost' end
  if row[1] ~= 'running' then return redis.call('HGET', key, 'closed') == closing and 'done' or 'lost' end
  local job = {key = key, state = 'running', seq = row[3], place = row[4], cancel = row[5], more = row[6]}
  local fields = {'closed', closing}
  if kind == 'settle' then
    if job.more then job.unique = redis.call('HGET', key, 'unique') end
    for i = first + 2, first + count - 1 do fields[#fields + 1] = ARGV[i] end
    finish(id, job, ARGV[first], ARGV[first + 1], fields)
    return 'done'
  end
  local further = redis.call('HMGET', key, 'told', 'steps', 'unique', 'due', 'waits', 'attempts', 'crashes')
  job.told, job.steps, job.unique = further[1], tonumber(further[2]) or 0, further[3]
  if kind == 'park' then
    fields[3], fields[4] = 'waits', (tonumber(further[5]) or 0) + 1
    wait_again(id, job, 'parked', tonumber(ARGV[first]) * 1000, ARGV[first + 1], fields)
  elseif kind == 'release' then
    wait_again(id, job, 'queued', math.min(tonumber(further[4]) or NOW_US, NOW_US), nil, fields)
  else
    local due, counter, failure = NOW + ARGV[first], ARGV[first + 1], ARGV[first + 2]
    local counts = {attempts = tonumber(further[6]) or 0, crashes = tonumber(further[7]) or 0}
    counts[counter] = counts[counter] + 1
    fields = {'closed', closing, counter, counts[counter], 'lastError', failure}
    redis.call('HSET', P .. 'job:retry:' .. id, 'count', counts.attempts, 'lastError', failure, 'retryAfter', iso(due))
    job.more = '1'
    wait_again(id, job, 'queued', due * 1000, failure, fields)
  end
  return 'done'
end

return closed, after_leaving
