-- Takes jobs in.

-- The living job that a key belongs to, if it is another.
local function alive(unique, id)
  local other = redis.call('HGET', Q .. 'unique', unique)
  if not other or other == id then return nil end
  local state = try('HGET', P .. 'job:' .. other, 'state')
  -- An older build ends a job without freeing its key.
  if type(state) ~= 'string' or state == 'ended' then return nil end
  return other
end

-- Takes a job in: 'queued', 'duplicate', 'joined' and the other, or 'wrongtype' if its key holds something
-- else. `wishes` are place, earliest time in ms or '', unique key or '', and the result of a joined job
-- before and after the other's id.
local function admit(id, data, closing, wishes, order)
  local key, data_key = P .. 'job:' .. id, Q .. 'data:' .. id
  local found = try('HMGET', key, 'state', 'status', 'closed', 'joinedTo', 'seq', 'due')
  if found.err then return 'wrongtype' end
  local place, unique = wishes[1], wishes[3]
  if found[1] and found[3] == closing then
    -- A repetition; or the first time broke off for a key of another kind.
    if found[1] == 'queued' then
      redis.call('SET', data_key, data)
      redis.call('ZADD', SETS.queued, found[5], id)
      if tonumber(found[6]) > NOW_US then
        redis.call('ZADD', DUE, found[6], id)
      else
        ready(place, tonumber(found[6]), found[5], id)
      end
    end
    if found[4] then return 'joined', found[4] end
    return 'queued'
  end
  -- A hash that another system left: a job that it ended is not begun again.
  local over = found[2] == 'completed' or found[2] == 'failed' or found[2] == 'cancelled'
  if found[1] or over then
    redis.call('HINCRBY', key, 'duplicates', 1)
    return 'duplicate'
  end
  if redis.call('EXISTS', key) == 1 then
    redis.call('HDEL', key, 'startedAt', 'completedAt', 'result', 'cancel')
    redis.call('PERSIST', key)
  end
  local seq = NOW_US + order
  local due, put_off = seq, tonumber(wishes[2] or '')
  if put_off and put_off * 1000 > NOW_US then due = math.min(put_off * 1000, NOW_US + 365 * 86400000000) end
  local fields = {}
  local priority = 9 - string.sub(place, 1, 2)
  if priority ~= 0 then fields = {'priority', priority} end
  local other
  if unique ~= '' then
    other = alive(unique, id)
    fields[#fields + 1], fields[#fields + 2] = 'unique', unique
    fields[#fields + 1], fields[#fields + 2] = 'more', 1
  end
  -- What is read most comes first.
  redis.call('HSET', key, 'state', 'queued', 'closed', closing, 'token', 0, 'seq', int(seq), 'place', place,
    'status', 'queued', 'due', int(due), 'steps', 0, 'runs', 0, 'attempts', 0, 'crashes', 0, 'waits', 0,
    'duplicates', 0, 'journalBytes', 0, 'admittedAt', now_iso(), unpack(fields))
  redis.call('SET', data_key, data)
  if other then
    local escaped = string.gsub(other, '[\\"]', '\\%0')
    redis.call('HSET', key, 'state', 'ended', 'status', 'cancelled', 'completedAt', now_iso(), 'endReason', 'joined',
      'joinedTo', other, 'result', wishes[4] .. escaped .. wishes[5])
    redis.call('ZADD', ENDED, NOW, id)
    redis.call('ZADD', SETS.ended, int(seq), id)
    redis.call('PEXPIRE', key, int(KEEP_MS + 86400000))
    redis.call('PEXPIRE', data_key, int(KEEP_MS + 86400000))
    return 'joined', other
  end
  if unique ~= '' then redis.call('HSET', Q .. 'unique', unique, id) end
  redis.call('ZADD', SETS.queued, int(seq), id)
  if put_off and due > NOW_US then
    redis.call('ZADD', DUE, int(due), id)
    if redis.call('ZRANGE', DUE, 0, 0)[1] == id then wake(id) end
  else
    ready(place, due, seq, id)
  end
  return 'queued'
end
