-- Claims jobs. Arguments: 4 how many of a repository may run, 5 lease in ms, 6 most, 7 runner, 8 process,
-- 9 number of this claim, 10 the result of a job that cannot be read, 11 of what: 'queue', 'inbox' for the
-- same if the inbox is empty, or 'urgent'. Answers 'inbox' if that is not empty, 'more' if there may be
-- more, or 'done'; then the jobs.
local lease_ms, most, runner, number = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7], ARGV[9]
local process = Q .. 'claimed:' .. ARGV[8]
-- A claim carries no more bytes of jobs than this, or one job.
local MOST_BYTES = 8000000
local claims, told, bytes = {}, {number}, 0
local flags = redis.call('HMGET', META, 'all', 'owners', 'cap', 'counted')
local counts = ARGV[4] ~= '0' or flags[4] == '1'

local function tell(row)
  claims[#claims + 1] = row
  told[#told + 1] = row[1] .. ' ' .. int(row[2])
  bytes = bytes + #row[4]
end

local function is_done()
  return #claims >= most or bytes >= MOST_BYTES
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

-- Claims a job that was never claimed and whose place says all of it; whether it is one.
local function take_new(id, seq, place)
  local key = P .. 'job:' .. id
  local row = try('HMGET', key, 'state', 'closed')
  local by = row[1] == 'queued' and row[2]
  if not by or not (string.find(by, 'submit ', 1, true) == 1 or string.find(by, 'entry ', 1, true) == 1) then return end
  local data = data_of(id)
  if not data then return end
  redis.call('HSET', key, 'state', 'running', 'closed', 'queue', 'token', NOW_US, 'status', 'in_progress', 'runs', 1,
    'runner', runner, 'startedAt', now_iso())
  lease(id, 'queued', place)
  tell({id, NOW_US, 'queue', data, math.floor(seq / 1000), 1, 0, 0, 0, 0, 0, 0})
  return true
end

-- Not declared above, so as not to be made anew for each claim: making functions takes longer than most
-- claims do.
local function claim_whole(before, last, popped)
--WHOLE--
end

-- Whether there is nothing but new jobs that wait for their turn.
local function is_plain()
  if counts or flags[1] == '1' or (tonumber(flags[2]) or 0) > 0 or flags[3] or ARGV[11] == 'urgent' then return false end
  if redis.call('ZRANGE', URGENT, 0, 0)[1] then return false end
  if redis.call('ZRANGEBYSCORE', LEASES, '-inf', NOW, 'LIMIT', 0, 1)[1] then return false end
  return not redis.call('ZRANGEBYSCORE', DUE, '-inf', NOW_US, 'LIMIT', 0, 1)[1]
end

-- Claims new jobs in turn; false if another kind of job came up, which was put back.
local function claim_new()
  local ready = Q .. 'ready:'
  while not is_done() do
    local lanes = redis.call('ZRANGE', TURNS, 0, most < 64 and most or 64)
    if not lanes[1] then return true end
    local level, count = string.sub(lanes[1], 1, 2), 1
    while lanes[count + 1] and string.sub(lanes[count + 1], 1, 2) == level do count = count + 1 end
    -- Only those that were read take turns here; with more than these, each once.
    local rest = count > most or count > 64
    if rest then count = count - 1 end
    local first = level * 2 ^ 47 + redis.call('HINCRBY', META, 'turn', most) - most
    local order, served, plain = {'ZADD', TURNS, 'XX'}, {}, true
    local at, left = 1, count
    while left > 0 and plain and not is_done() do
      local lane = lanes[at]
      if lane then
        local want = (left == 1 and not rest) and math.min(most - #claims, 64) or 1
        local page = redis.call('ZPOPMIN', ready .. lane, want)
        for i = 1, #page, 2 do
          local seq, repo, id = string.match(page[i], '^(%d+)|([^|]*)|(.*)$')
          local fits, done, ours = plain and not is_done(), true, false
          if fits then done, ours = pcall(take_new, id, seq, level .. '|' .. repo) end
          if done and ours then
            first = first + 1
            served[lane] = first
          else
            -- One that is not new, or that cannot be claimed now: the whole way will tell.
            if fits then plain = false end
            redis.call('ZADD', ready .. lane, page[i + 1], page[i])
          end
        end
        if not served[lane] then served[lane] = false end
        if #page < 2 * want then
          lanes[at] = false
          left = left - 1
        end
      end
      at = at + 1
      if at > count then
        if rest then break end
        at = 1
      end
    end
    for lane, turn in pairs(served) do
      if redis.call('EXISTS', ready .. lane) == 0 then
        redis.call('ZREM', TURNS, lane)
      elseif turn then
        order[#order + 1] = turn
        order[#order + 1] = lane
      end
    end
    if #order > 3 then redis.call(unpack(order)) end
    if not plain then return false end
  end
  return true
end

local before = redis.call('GET', process)
local last = before and tonumber(string.match(before, '^%d+'))
-- A call that comes after its successor must not claim for nobody.
if last and last > tonumber(number) then return {'done', {}} end
if last ~= tonumber(number) and ARGV[11] == 'inbox' and redis.call('XLEN', STREAM) > 0 then return {'inbox', {}} end
local more = false
if last == tonumber(number) or not is_plain() then
  more = claim_whole(before, last, false)
elseif not claim_new() then
  more = claim_whole(before, last, true)
end
do_gathered()
if #claims > 0 then redis.call('SET', process, table.concat(told, '\n'), 'PX', int(lease_ms + 1000)) end
return {more and 'more' or 'done', claims}
