-- Claims candidates that are still to be had. Keys: 10 what this process claimed last, then five for
-- each job. Arguments: 3 lease in ms, 4 most, 5 runner, 6 number of this claim, 7 the result of a job
-- that cannot be read, then for each job its id and '', or the token of a claim to be told again.
local lease_ms, most, runner = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local claims, told = {}, {ARGV[6]}

-- A call that comes twice, or after its successor, must not claim for nobody.
local before = redis.call('GET', KEYS[10])
local last = before and tonumber(string.match(before, '^%d+'))
if last and last >= tonumber(ARGV[6]) and (ARGV[9] or '') == '' then return {} end

local function claimed(keys, id, token, from, found)
  local row = {id, token, from, found.data, int(math.floor(found.seq / 1000))}
  for _, name in ipairs(COUNTS) do row[#row + 1] = int(found[name]) end
  claims[#claims + 1] = row
  told[#told + 1] = id .. ' ' .. token .. ' ' .. from
end

-- The job as numbers, or nil and why it is not one.
local function read(keys)
  local row = redis.pcall('HMGET', keys[1], 'state', 'cancel', 'token', 'seq', unpack(COUNTS))
  if row.err then return nil, 'its status key holds another kind of value' end
  local found = {state = row[1], cancel = row[2] == '1', token = tonumber(row[3]), seq = tonumber(row[4])}
  for i, name in ipairs(COUNTS) do found[name] = tonumber(row[i + 4]) end
  local data = redis.pcall('GET', keys[3])
  if not data or type(data) == 'table' then return nil, 'the job itself is gone' end
  found.data = data
  if not SETS[found.state] then return nil, 'its state is gone' end
  for _, name in ipairs({'token', 'seq', unpack(COUNTS)}) do
    if not found[name] then return nil, name .. ' is not a number' end
  end
  return found
end

local function set_aside(keys, id, why)
  redis.call('XADD', DEAD, 'MAXLEN', '~', 1000, '*', 'reason', why, 'job', id)
  for _, set in pairs(SETS) do redis.call('ZREM', set, id) end
  redis.call('ZREM', DUE, id)
  redis.call('ZREM', LEASES, id)
  local kind = redis.call('TYPE', keys[1]).ok
  if kind ~= 'hash' and kind ~= 'none' then return end
  for _, name in ipairs({'token', unpack(COUNTS)}) do
    if not tonumber(redis.call('HGET', keys[1], name) or '') then redis.call('HSET', keys[1], name, 0) end
  end
  local seq = tonumber(redis.call('HGET', keys[1], 'seq') or '') or NOW_US
  redis.call('HSET', keys[1], 'seq', int(seq), 'endReason', 'journal')
  finish(keys, id, 'ended', int(seq), 'failed', ARGV[7])
end

local function take(keys, id)
  local lease, due = redis.call('ZSCORE', LEASES, id), redis.call('ZSCORE', DUE, id)
  local expired = lease and tonumber(lease) <= NOW
  if not expired and not (due and tonumber(due) <= NOW_US) then return end
  local found, why = read(keys)
  if not found then return set_aside(keys, id, why) end
  local from = 'queue'
  if expired then
    from = 'expired'
    found.crashes = found.crashes + 1
    redis.call('HSET', keys[1], 'crashes', int(found.crashes))
    if found.cancel then return call_off(keys, id, found.state, int(found.seq)) end
  end
  -- The clock in it keeps a token new even if the server lost its last writes in a crash.
  local token = int(math.max(found.token + 1, NOW_US))
  found.runs = found.runs + 1
  redis.call('HSET', keys[1], 'state', 'running', 'status', 'in_progress', 'token', token, 'runs', int(found.runs),
    'runner', runner, 'closed', from)
  redis.call('HSETNX', keys[1], 'startedAt', iso(NOW))
  redis.call('HDEL', keys[1], 'waitingFor', 'waitingUntil')
  redis.call('ZREM', DUE, id)
  redis.call('ZADD', LEASES, NOW + lease_ms, id)
  move(id, found.state, 'running', int(found.seq))
  claimed(keys, id, token, from, found)
end

local key = 11
for at = 8, #ARGV, 2 do
  if #claims >= most then break end
  local id, token = ARGV[at], ARGV[at + 1]
  local keys = {KEYS[key], KEYS[key + 1], KEYS[key + 2], KEYS[key + 3], KEYS[key + 4]}
  key = key + 5
  if token == '' then
    take(keys, id)
  else
    local found = read(keys)
    if found and found.state == 'running' and redis.call('HGET', keys[1], 'token') == token then
      redis.call('ZADD', LEASES, NOW + lease_ms, id)
      claimed(keys, id, token, redis.call('HGET', keys[1], 'closed'), found)
    end
  end
end
if #claims > 0 then redis.call('SET', KEYS[10], table.concat(told, '\n'), 'PX', int(lease_ms + 1000)) end
return claims
