-- The whole way to claim, with all that seldom is: what is to be called off, what ran out, what comes due,
-- limits and pauses, jobs that ran before, and a claim that nobody heard of.
local lease_ms, most, runner, number = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7], ARGV[9]

local function tell(row)
  claims[#claims + 1] = row
  told[#told + 1] = row[1] .. ' ' .. int(row[2])
  bytes = bytes + #row[4]
end

local function is_done()
  return #claims >= most or bytes >= most_bytes
end

local function data_of(id)
  local data = try('GET', Q .. 'data:' .. id)
  return type(data) == 'string' and data
end

local function lease(id, state, place)
  -- First of all: what runs is in there, or would be lost.
  later('ZADD', LEASES, NOW + lease_ms, id)
  if SETS[state] then later('ZREM', SETS[state], id) end
  if counts then later('SADD', Q .. 'running:' .. string.sub(place, 4), id) end
end

local COUNTS = {'runs', 'attempts', 'crashes', 'waits', 'steps'}

-- The job, or nil and why it is none.
local function read(id)
  local key = P .. 'job:' .. id
  local row = try('HMGET', key, 'state', 'token', 'seq', 'cancel', 'told', 'retries', 'admitted', 'due', 'place',
    'startedAt', 'unique', 'closed', unpack(COUNTS))
  if row.err then return nil, 'its status key holds another kind of value' end
  local job = {key = key, state = row[1], token = tonumber(row[2]), seq = tonumber(row[3]), cancel = row[4],
    told = row[5], retries = tonumber(row[6]) or 0, admitted = tonumber(row[7]), due = tonumber(row[8]) or NOW_US,
    place = row[9], started = row[10], unique = row[11], closed = row[12], more = '1'}
  local state = job.state
  if state ~= 'queued' and state ~= 'parked' and state ~= 'running' and state ~= 'ended' then
    return nil, 'its state is gone'
  end
  for i, name in ipairs(COUNTS) do job[name] = tonumber(row[i + 12]) end
  for _, name in ipairs({'token', 'seq', unpack(COUNTS)}) do
    if not job[name] then return nil, name .. ' is not a number' end
  end
  job.seq, job.admitted = int(job.seq), job.admitted or math.floor(job.seq / 1000)
  job.place = job.place or find_place(id)
  return job
end

local function set_aside(id, why)
  local key = P .. 'job:' .. id
  redis.pcall('XADD', Q .. 'dead', 'MAXLEN', '~', 1000, '*', 'reason', why, 'job', id)
  for _, set in pairs({DUE, URGENT, LEASES, SETS.queued, SETS.parked, SETS.ended}) do redis.call('ZREM', set, id) end
  local row = try('HMGET', key, 'seq', 'place', 'unique', 'token', unpack(COUNTS))
  if row.err then return end
  for i, name in ipairs({'token', unpack(COUNTS)}) do
    if not tonumber(row[i + 3] or '') then redis.call('HSET', key, name, 0) end
  end
  local seq = int(tonumber(row[1] or '') or NOW_US)
  -- Wherever it was, it is to be out of there.
  local job = {key = key, state = 'running', seq = seq, place = row[2], unique = row[3], cancel = '1', more = '1'}
  finish(id, job, 'failed', ARGV[10], {'seq', seq, 'endReason', 'journal'})
end

local function row_of(id, token, from, data, job)
  return {id, token, from, data, job.admitted, job.runs, job.attempts, job.crashes, job.waits, job.steps, job.retries,
    job.cancel and 1 or 0}
end

-- Claims any job, one of a lane as it was due there; whether it runs now.
local function take(id, from, due)
  local job, why = read(id)
  if not job then return set_aside(id, why) end
  if from == 'expired' and job.state ~= 'running' then
    redis.call('ZREM', LEASES, id)
    return
  end
  -- An older build ended it, and does not know of lanes.
  if from == 'queue' and job.state ~= 'queued' and job.state ~= 'parked' then return end
  if due and tonumber(due) ~= job.due then
    -- It waits for another time, and is to be found where it does.
    if redis.call('ZSCORE', URGENT, id) then return end
    redis.call('ZADD', DUE, int(job.due), id)
    return
  end
  local data = data_of(id)
  if not data then return set_aside(id, 'the job itself is gone') end
  local fields = {'closed', from}
  if from == 'expired' then
    job.crashes = job.crashes + 1
    fields = {'closed', from, 'crashes', job.crashes}
    if is_paused(lane_of(job.place)) then
      return wait_again(id, job, 'queued', math.min(job.due, NOW_US), nil, fields)
    end
  end
  if job.cancel and job.steps == 0 then return call_off(id, job, fields) end
  if job.cancel and not job.told then
    fields[#fields + 1], fields[#fields + 2] = 'told', 1
  end
  if not job.started then
    fields[#fields + 1], fields[#fields + 2] = 'startedAt', now_iso()
  end
  -- The clock in it keeps a token new even if the server lost its last writes in a crash.
  local token = math.max(job.token + 1, NOW_US)
  job.runs = job.runs + 1
  redis.call('HSET', job.key, 'state', 'running', 'status', 'in_progress', 'token', int(token), 'runs', job.runs,
    'runner', runner, 'more', 1, unpack(fields))
  redis.call('HDEL', job.key, 'waitingFor', 'waitingUntil')
  lease(id, job.state, job.place)
  tell(row_of(id, token, from, data, job))
  return true
end

-- The claim before this one, if nobody heard of it: a number that comes twice. All of it, or nobody would
-- hear of the rest.
local function tell_again(before)
  local lines = string.gmatch(before, '[^\n]+')
  lines()
  for line in lines do
    local id, token = string.match(line, '^(%S+) (%S+)')
    local job = read(id)
    if job and job.state == 'running' and int(job.token) == token then
      local data = data_of(id)
      if data then
        redis.call('ZADD', LEASES, NOW + lease_ms, id)
        tell(row_of(id, job.token, job.closed, data, job))
      end
    end
  end
end

local function take_urgent()
  if is_done() then return end
  for _, id in ipairs(redis.call('ZRANGE', URGENT, 0, most - #claims - 1)) do
    if is_done() then return end
    take(id, 'queue')
    do_gathered()
    redis.call('ZREM', URGENT, id)
  end
end

local function take_expired()
  repeat
    -- What this very claim gives is not given again, however short its lease.
    local ours, seen = {}, 0
    for _, row in ipairs(claims) do ours[row[1]] = true end
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', LEASES, '-inf', NOW, 'LIMIT', 0, most)) do
      if is_done() or budget <= 0 then break end
      if not ours[id] then
        seen, budget = seen + 1, budget - 1
        if not take(id, 'expired') then
          -- One that was put back may have to be told of.
          do_gathered()
          take_urgent()
        end
      end
    end
    do_gathered()
  until seen == 0 or is_done() or budget <= 0
  more = more or budget <= 0
end

-- Why claiming ended early.
local failed

-- Claims up to `want` jobs of a lane; how many.
local function take_from(lane, want)
  local taken = 0
  while taken < want and budget > 0 and not is_done() do
    -- One by one where another of the same repository may have to go first.
    local page = redis.call('ZPOPMIN', READY .. lane, HELD_CAP and 1 or math.min(want - taken, 64))
    if #page == 0 then break end
    for i = 1, #page, 2 do
      local repo, id = string.match(page[i], '^%d+|([^|]*)|(.*)$')
      if is_full(repo) then
        hold(lane, repo, page[i], page[i + 1])
      elseif is_done() then
        redis.call('ZADD', READY .. lane, page[i + 1], page[i])
      else
        local done, ours = pcall(take, id, 'queue', page[i + 1])
        if not done then
          -- A cluster that moves the queue, say: what was not claimed goes back.
          for j = i, #page, 2 do redis.call('ZADD', READY .. lane, page[j + 1], page[j]) end
          failed = ours
          return taken
        end
        if ours then
          taken = taken + 1
          if CAP ~= 0 then running[repo] = running[repo] + 1 end
        else
          budget = budget - 1
        end
        if HELD_CAP and not is_full(repo) then reopen(repo) end
      end
    end
  end
  return taken
end

local function take_ready()
  while not is_done() and not failed and budget > 0 do
    local lanes, rest = first_lanes(math.min(most, 64))
    if #lanes == 0 then return end
    local turn, turns = redis.call('HINCRBY', META, 'turn', most) - most, {}
    local seen = {}
    repeat
      local again = {}
      for _, lane in ipairs(lanes) do
        if is_done() or failed or budget <= 0 then break end
        if is_paused(lane) then
          budget = budget - 1
          close_lane(lane, true)
        else
          seen[lane] = true
          local want = (#lanes == 1 and not rest) and most - #claims or 1
          local taken = take_from(lane, want)
          if taken > 0 then
            turn = turn + 1
            turns[lane] = turn
          end
          if taken == want then again[#again + 1] = lane else budget = budget - 1 end
        end
      end
      lanes = again
    until #lanes == 0 or rest or is_done() or failed or budget <= 0
    local order = {'ZADD', TURNS, 'XX'}
    for lane, served in pairs(turns) do
      order[#order + 1] = turn_of(lane, served)
      order[#order + 1] = lane
    end
    if #order > 3 then redis.call(unpack(order)) end
    for lane in pairs(seen) do check_lane(lane) end
  end
  more = more or budget <= 0
end

if last == tonumber(number) then tell_again(before) end
if #claims == 0 or last ~= tonumber(number) then
  take_urgent()
  if ARGV[11] ~= 'urgent' and not ALL_PAUSED and not is_done() then
    take_expired()
    if not is_done() then
      -- What was claimed already counts.
      do_gathered()
      promote()
      loosen()
      take_ready()
    end
  end
end
after_leaving()
do_gathered()
if failed and #claims == 0 then error(failed) end
return more
