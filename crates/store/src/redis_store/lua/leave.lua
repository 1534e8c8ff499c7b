-- Runs that end, several in one call. Arguments: from 4 on for each: what becomes of the job, its id, the
-- token, what makes a repetition known, how many arguments follow, and these:
-- settle: status, result, further fields; park: until in ms, why; release: none;
-- requeue: after in ms, what counts it, error.
local answers, at = {}, 4
local counted_at_all = redis.call('HGET', META, 'counted')

-- Not declared above, so as not to be made anew for each call.
local function whole()
--WHOLE--
end
local closed, after_leaving

-- The commonest end: settled, with no keys but the first two, not to be called off, and nobody counts.
-- Whether that is what it is.
local function settle_plain(id, token, closing, first, count)
  local key = P .. 'job:' .. id
  local row = redis.pcall('HMGET', key, 'state', 'token', 'seq', 'more', 'cancel')
  if row.err or row[1] ~= 'running' or row[2] ~= token or row[4] or row[5] then return false end
  redis.call('HSET', key, 'state', 'ended', 'closed', closing, 'status', ARGV[first], 'completedAt', now_iso(),
    'result', unpack(ARGV, first + 1, first + count - 1))
  redis.call('PEXPIRE', key, KEEP_MS + 86400000)
  redis.call('PEXPIRE', Q .. 'data:' .. id, KEEP_MS + 86400000)
  later('ZREM', LEASES, id)
  later('ZADD', ENDED, NOW, id)
  later('ZADD', SETS.ended, row[3], id)
  return true
end

local failed
while at <= #ARGV and not failed do
  local kind, id, token, closing, count = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], tonumber(ARGV[at + 4])
  if kind == 'settle' and not counted_at_all and settle_plain(id, token, closing, at + 5, count) then
    answers[#answers + 1] = 'done'
  else
    if not closed then closed, after_leaving = whole() end
    local done, answer = pcall(closed, kind, id, token, closing, at + 5, count)
    if done then answers[#answers + 1] = answer else failed = answer end
  end
  at = at + 5 + count
end
-- Those before one that failed have ended all the same.
if after_leaving then after_leaving() else do_gathered() end
if failed then error(failed) end
return answers
