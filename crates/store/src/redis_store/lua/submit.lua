-- Takes a job in. Arguments: 4 id, 5 JSON, 6 what makes a repetition known, 7 to 11 the wishes.
local function any_job()
--WHOLE--
local outcome, other = admit(ARGV[4], ARGV[5], ARGV[6], {ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11]}, 0)
return {outcome, other or ''}
end

local id, place, unique = ARGV[4], ARGV[7], ARGV[9]
local key, uniques = P .. 'job:' .. id, Q .. 'unique'
-- A new one that may begin now, and is alone.
if ARGV[8] ~= '' or redis.call('EXISTS', key) == 1 or unique ~= '' and redis.call('HGET', uniques, unique) then
  return any_job()
end
local seq, level = string.format('%.0f', NOW_US), string.sub(place, 1, 2)
redis.call('HSET', key, 'state', 'queued', 'closed', ARGV[6], 'token', '0', 'seq', seq, 'place', place, 'status',
  'queued', 'due', seq, 'steps', '0', 'runs', '0', 'attempts', '0', 'crashes', '0', 'waits', '0', 'duplicates', '0',
  'journalBytes', '0', 'admittedAt', iso(NOW))
if level ~= '09' then redis.call('HSET', key, 'priority', 9 - level) end
if unique ~= '' then
  redis.call('HSET', key, 'unique', unique, 'more', '1')
  redis.call('HSET', uniques, unique, id)
end
redis.call('SET', Q .. 'data:' .. id, ARGV[5])
redis.call('ZADD', Q .. 'state:queued', seq, id)
-- Into its lane, which is opened if it was not.
local lane, turns, aside = string.match(place, '^[^/]*'), Q .. 'turns', Q .. 'aside'
redis.call('ZADD', Q .. 'ready:' .. lane, seq, string.format('%016.0f|%s|%s', NOW_US, string.sub(place, 4), id))
if not redis.call('ZSCORE', turns, lane) then
  local turn = redis.call('ZSCORE', aside, lane)
  if turn then
    redis.call('ZREM', aside, lane)
  else
    turn = string.format('%.0f', level * 2 ^ 47 + redis.call('HINCRBY', Q .. 'meta', 'turn', 1))
  end
  redis.call('ZADD', turns, turn, lane)
  redis.call('XADD', Q .. 'wake', 'MAXLEN', 1, '*', 'job', lane)
end
return {'queued', ''}
