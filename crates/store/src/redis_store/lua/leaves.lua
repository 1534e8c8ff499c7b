-- Runs that end, several in one call: arguments from `at` on for each: what becomes of the job, its id, the
-- token, what makes a repetition known, how many arguments follow, and these:
-- settle: status, result, further fields; park: until in ms, why; release: none;
-- requeue: after in ms, what counts it, error.
-- `counted_at_all` is whether anybody counts the runs of a repository. Gives `answers`, and `failed` if one
-- failed: those before it have ended all the same.
local answers, failed = {}, nil
local NOW_MS, NOW_ISO = string.format('%.0f', NOW), iso(NOW)
-- The commonest end: settled, with no keys but the first two, not to be called off, and nobody counts.
local left, ended, in_order, expiry

-- All else, with nothing of what is above: what a function shares takes time whenever it is made.
local function any_end()
--WHOLE--
end
local closed, after_leaving

while at <= #ARGV and not failed do
  local kind, id, token, closing, count = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], tonumber(ARGV[at + 4])
  local key, row = P .. 'job:' .. id, nil
  if kind == 'settle' and not counted_at_all then
    row = redis.pcall('HMGET', key, 'state', 'token', 'seq', 'more', 'cancel')
  end
  if row and not row.err and row[1] == 'running' and row[2] == token and not row[4] and not row[5] then
    if not left then
      left, ended, in_order = {'ZREM', Q .. 'leases'}, {'ZADD', Q .. 'ended'}, {'ZADD', Q .. 'state:ended'}
      expiry = string.format('%.0f', ARGV[1] + 86400000)
    end
    redis.call('HSET', key, 'state', 'ended', 'closed', closing, 'status', ARGV[at + 5], 'completedAt', NOW_ISO,
      'result', unpack(ARGV, at + 6, at + 4 + count))
    redis.call('PEXPIRE', key, expiry)
    redis.call('PEXPIRE', Q .. 'data:' .. id, expiry)
    local size = #in_order
    left[#left + 1] = id
    ended[size + 1], ended[size + 2] = NOW_MS, id
    in_order[size + 1], in_order[size + 2] = row[3], id
    answers[#answers + 1] = 'done'
  else
    if not closed then closed, after_leaving = any_end() end
    local done, answer = pcall(closed, kind, id, token, closing, at + 5, count)
    if done then answers[#answers + 1] = answer else failed = answer end
  end
  at = at + 5 + count
end
if left then
  redis.call(unpack(left))
  redis.call(unpack(ended))
  redis.call(unpack(in_order))
end
if after_leaving then after_leaving() end

