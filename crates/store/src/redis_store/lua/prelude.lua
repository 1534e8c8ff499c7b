-- Begins every script. The first nine keys and the first two arguments are the same for all.
local DUE, LEASES, ENDED, WAKE = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local SETS = {queued = KEYS[5], running = KEYS[6], parked = KEYS[7], ended = KEYS[8]}
local DEAD = KEYS[9]
local KEEP_MS, CALLED_OFF = tonumber(ARGV[1]), ARGV[2]
local COUNTS = {'runs', 'attempts', 'crashes', 'waits', 'steps'}

-- The server's clock: microseconds order the queue, milliseconds are what people see.
local clock = redis.call('TIME')
local NOW_US = clock[1] * 1000000 + clock[2]
local NOW = math.floor(NOW_US / 1000)

-- Lua writes large numbers with an exponent, which nobody reads back.
local function int(number)
  return string.format('%.0f', number)
end

-- Days to a civil date after Howard Hinnant, "chrono-compatible low-level date algorithms".
local function iso(millis)
  local days = math.floor(millis / 86400000)
  local rest = millis - days * 86400000
  local z = days + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local day = doy - math.floor((153 * mp + 2) / 5) + 1
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03dZ', year, month, day,
    math.floor(rest / 3600000), math.floor(rest / 60000) % 60, math.floor(rest / 1000) % 60, rest % 1000)
end

local function move(id, from, to, seq)
  if SETS[from] then redis.call('ZREM', SETS[from], id) end
  redis.call('ZADD', SETS[to], seq, id)
end

-- Wakes who waits, if this job is the next one: else they wait for an earlier one already.
local function wake(id)
  if redis.call('ZRANGE', DUE, 0, 0)[1] == id then
    redis.call('XADD', WAKE, 'MAXLEN', 1, '*', 'job', id)
  end
end

-- Ends a job. `keys` are its five: status hash, retry hash, job, journal, patch. They outlive the
-- purge a little, so that they go even if nobody purges.
local function finish(keys, id, from, seq, status, result)
  redis.call('HSET', keys[1], 'state', 'ended', 'status', status, 'completedAt', iso(NOW), 'result', result)
  redis.call('HDEL', keys[1], 'waitingFor', 'waitingUntil', 'cancel')
  redis.call('ZREM', DUE, id)
  redis.call('ZREM', LEASES, id)
  redis.call('ZADD', ENDED, NOW, id)
  move(id, from, 'ended', seq)
  for _, key in ipairs(keys) do redis.call('PEXPIRE', key, int(KEEP_MS + 86400000)) end
end

local function call_off(keys, id, from, seq)
  finish(keys, id, from, seq, 'cancelled', CALLED_OFF)
  redis.call('HSET', keys[1], 'endReason', 'cancelled')
end

-- Lets a running job wait, unless it is to be called off: then nobody is left to hear it.
local function put_back(keys, id, held, state, due_us, waiting_for)
  redis.call('HSET', keys[1], 'due', int(due_us))
  if held.cancel then return call_off(keys, id, 'running', held.seq) end
  redis.call('HSET', keys[1], 'state', state, 'status', 'queued')
  if waiting_for then
    redis.call('HSET', keys[1], 'waitingFor', waiting_for, 'waitingUntil', iso(math.floor(due_us / 1000)))
  end
  redis.call('ZREM', LEASES, id)
  redis.call('ZADD', DUE, int(due_us), id)
  move(id, 'running', state, held.seq)
  wake(id)
end

-- What a token holds: its job's fields while it runs, else 'lost', or 'done' if the token's own
-- last transition is this very one, repeated.
local function leave(key, token, closing)
  local found = redis.pcall('HMGET', key, 'token', 'state', 'closed', 'cancel', 'seq', 'due')
  if found.err or found[1] ~= token then return nil, 'lost' end
  if found[2] ~= 'running' then return nil, found[3] == closing and 'done' or 'lost' end
  redis.call('HSET', key, 'closed', closing)
  return {cancel = found[4] == '1', seq = found[5], due = tonumber(found[6]) or NOW_US}
end

-- Takes a job in: 'queued', 'duplicate', or 'wrongtype' if its key holds something else.
local function admit(key, data_key, id, data, closing, order)
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'none' and kind ~= 'hash' then return 'wrongtype' end
  local found = redis.call('HMGET', key, 'state', 'status', 'closed')
  if found[1] == 'queued' and found[3] == closing then
    -- A repetition; or the first time broke off for a key of another kind.
    local seq = redis.call('HGET', key, 'seq')
    redis.call('SET', data_key, data)
    redis.call('ZADD', DUE, seq, id)
    redis.call('ZADD', SETS.queued, seq, id)
    return 'queued'
  end
  if found[1] and found[3] == closing then return 'queued' end
  -- A hash that another system left: a job that it ended is not begun again.
  local over = found[2] == 'completed' or found[2] == 'failed' or found[2] == 'cancelled'
  if found[1] or over then
    redis.call('HINCRBY', key, 'duplicates', 1)
    return 'duplicate'
  end
  local seq = int(NOW_US + order)
  redis.call('HDEL', key, 'startedAt', 'completedAt', 'result', 'cancel')
  redis.call('HSET', key, 'status', 'queued', 'state', 'queued', 'admittedAt', iso(NOW), 'runs', 0, 'attempts', 0,
    'crashes', 0, 'waits', 0, 'steps', 0, 'duplicates', 0, 'journalBytes', 0, 'token', 0, 'seq', seq, 'due', seq,
    'closed', closing)
  redis.call('PERSIST', key)
  redis.call('SET', data_key, data)
  redis.call('ZADD', DUE, seq, id)
  redis.call('ZADD', SETS.queued, seq, id)
  return 'queued'
end
