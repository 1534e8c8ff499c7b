-- Removes ended jobs whose time is over. Arguments: 4 most.
local old = redis.call('ZRANGEBYSCORE', ENDED, '-inf', int(NOW - KEEP_MS), 'LIMIT', 0, ARGV[4])
for _, id in ipairs(old) do
  local unique = try('HGET', P .. 'job:' .. id, 'unique')
  if type(unique) == 'string' and redis.call('HGET', Q .. 'unique', unique) == id then
    redis.call('HDEL', Q .. 'unique', unique)
  end
  redis.call('UNLINK', P .. 'job:' .. id, P .. 'job:retry:' .. id, Q .. 'data:' .. id, Q .. 'journal:' .. id,
    Q .. 'patch:' .. id)
  later('ZREM', ENDED, id)
  later('ZREM', SETS.ended, id)
end
do_gathered()
return #old
