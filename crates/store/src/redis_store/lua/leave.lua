-- Runs that end, several in one call. Arguments: from 4 on for each: what becomes of the job, its id, the
-- token, what makes a repetition known, how many arguments follow, and these:
-- settle: status, result, further fields; park: until in ms, why; release: none;
-- requeue: after in ms, what counts it, error.
local answers, at = {}, 4

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

local failed
while at <= #ARGV and not failed do
  local count = tonumber(ARGV[at + 4])
  local done, answer = pcall(closed, ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], at + 5, count)
  if done then answers[#answers + 1] = answer else failed = answer end
  at = at + 5 + count
end
-- Those before one that failed have ended all the same.
after_leaving()
if failed then error(failed) end
return answers
