-- What ends a job, and what lets it wait. A job is a table: `key`, `state`, `seq`, `place`, `cancel` and
-- `told` (or false), `steps`, `unique`, and `more`: it may have more keys than the first two.
local left = {}

-- Takes a job out of where its state keeps it.
local function take_out(id, job)
  if job.state == 'running' then
    later('ZREM', LEASES, id)
    if job.place and is_counted() then
      local repo = repo_of(job.place)
      later('SREM', Q .. 'running:' .. repo, id)
      left[repo] = true
    end
  elseif SETS[job.state] then
    redis.call('ZREM', SETS[job.state], id)
    redis.call('ZREM', DUE, id)
    redis.call('ZREM', URGENT, id)
    if job.place and job.seq then unready(job.place, job.seq, id) end
  end
end

-- Ends a script that took jobs out: whose repository was full may be next.
local function after_leaving()
  do_gathered()
  if next(left) and redis.call('EXISTS', HELD) == 1 then
    for repo in pairs(left) do reopen(repo) end
  end
end

-- Ends a job, with further fields. Its keys outlive the purge a little, so that they go even if nobody
-- purges.
local function finish(id, job, status, result, fields)
  redis.call('HSET', job.key, 'state', 'ended', 'status', status, 'completedAt', now_iso(), 'result', result,
    unpack(fields))
  if job.cancel or job.state ~= 'running' then
    redis.call('HDEL', job.key, 'waitingFor', 'waitingUntil', 'cancel', 'told')
  end
  take_out(id, job)
  later('ZADD', ENDED, NOW, id)
  later('ZADD', SETS.ended, job.seq, id)
  local expiry = int(KEEP_MS + 86400000)
  redis.call('PEXPIRE', job.key, expiry)
  redis.call('PEXPIRE', Q .. 'data:' .. id, expiry)
  if job.more then
    redis.call('PEXPIRE', P .. 'job:retry:' .. id, expiry)
    redis.call('PEXPIRE', Q .. 'journal:' .. id, expiry)
    redis.call('PEXPIRE', Q .. 'patch:' .. id, expiry)
  end
  if job.unique and redis.call('HGET', Q .. 'unique', job.unique) == id then
    redis.call('HDEL', Q .. 'unique', job.unique)
  end
end

local function call_off(id, job, fields)
  fields[#fields + 1], fields[#fields + 2] = 'endReason', 'cancelled'
  finish(id, job, 'cancelled', CALLED_OFF, fields)
end

-- Lets a job wait, with further fields; one that is to be called off only to be told of, at once if no
-- run knows of it yet.
local function wait_again(id, job, state, due, why, fields)
  if job.cancel and job.steps == 0 then
    fields[#fields + 1], fields[#fields + 2] = 'due', int(due)
    return call_off(id, job, fields)
  end
  local asked = job.cancel and not job.told
  if asked then state, due, why = 'queued', math.min(due, NOW_US), TELLS end
  if why then
    fields[#fields + 1], fields[#fields + 2] = 'waitingFor', why
    fields[#fields + 1], fields[#fields + 2] = 'waitingUntil', iso(math.floor(due / 1000))
  else
    redis.call('HDEL', job.key, 'waitingFor', 'waitingUntil')
  end
  redis.call('HSET', job.key, 'state', state, 'status', 'queued', 'due', int(due), unpack(fields))
  take_out(id, job)
  redis.call('ZADD', SETS[state], job.seq, id)
  if asked then
    redis.call('ZADD', URGENT, int(due), id)
    wake(id)
  elseif due <= NOW_US then
    ready(job.place or '09|/', due, job.seq, id)
  else
    redis.call('ZADD', DUE, int(due), id)
    -- Who waits for an earlier one does so already.
    if redis.call('ZRANGE', DUE, 0, 0)[1] == id then wake(id) end
  end
end
