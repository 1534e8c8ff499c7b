-- Puts an ended job back. Arguments: 4 id, 5 what makes a repetition known, 6 '1' to begin at the very
-- beginning, then the fields of the status hash that stay.
local id, key, data_key = ARGV[4], P .. 'job:' .. ARGV[4], Q .. 'data:' .. ARGV[4]
local row = try('HMGET', key, 'state', 'seq', 'place', 'unique', 'retries', 'closed')
if row.err then return {'corrupt', ''} end
if not row[1] then return {'unknown', ''} end
if (row[1] == 'queued' or row[1] == 'parked') and row[6] == ARGV[5] then return {'queued', ''} end
if row[1] ~= 'ended' then return {'alive', ''} end
local data = redis.call('GET', data_key)
if not data or not row[2] then return {'corrupt', ''} end
if row[4] then
  local other = alive(row[4], id)
  if other then return {'joined', other} end
  redis.call('HSET', Q .. 'unique', row[4], id)
end
local place = row[3] or place_in(data)
local stays = {}
for i = 7, #ARGV do stays[ARGV[i]] = true end
local fields = redis.call('HGETALL', key)
for i = 1, #fields, 2 do
  if not stays[fields[i]] then redis.call('HDEL', key, fields[i]) end
end
local journal, patch = Q .. 'journal:' .. id, Q .. 'patch:' .. id
redis.call('UNLINK', P .. 'job:retry:' .. id)
if ARGV[6] == '1' then
  redis.call('UNLINK', journal, patch)
  redis.call('HSET', key, 'steps', 0, 'journalBytes', 0)
end
for _, each in ipairs({key, data_key, journal, patch}) do redis.call('PERSIST', each) end
redis.call('HSET', key, 'state', 'queued', 'status', 'queued', 'closed', ARGV[5], 'attempts', 0, 'crashes', 0,
  'retries', (tonumber(row[5]) or 0) + 1, 'due', int(NOW_US), 'admitted', int(NOW), 'admittedAt', now_iso(),
  'place', place, 'more', 1)
redis.call('ZREM', ENDED, id)
redis.call('ZREM', SETS.ended, id)
redis.call('ZADD', SETS.queued, row[2], id)
ready(place, NOW_US, row[2], id)
return {'queued', ''}
