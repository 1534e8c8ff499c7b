-- Claims jobs, after the runs that end in the same call. Arguments: 4 how many of a repository may run, 5
-- lease in ms, 6 most, 7 runner, 8 process, 9 number of this claim, 10 the result of a job that cannot be
-- read, 11 of what: 'queue', 'inbox' for the same if the inbox is empty, or 'urgent'; from 12 on the runs
-- that end. Answers 'inbox' if that is not empty, 'more' if there may be more, or 'done'; the jobs; and the
-- answers of those that ended.
local flags = redis.call('HMGET', Q .. 'meta', 'all', 'owners', 'cap', 'counted')
local counted_at_all, at = flags[4] == '1', 12
--ENDS--
if failed then error(failed) end
local lease_ms, most, runner, number = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7], ARGV[9]
local process = Q .. 'claimed:' .. ARGV[8]
-- A claim carries no more bytes of jobs than this, or one job.
local most_bytes = 8000000
local claims, told, bytes = {}, {number}, 0
local counts = ARGV[4] ~= '0' or counted_at_all

-- The whole way, of which the same holds as of any end.
local function claim_whole(claims, told, bytes, most_bytes, counts, before, last)
--WHOLE--
end

local before = redis.call('GET', process)
local last = before and tonumber(string.match(before, '^%d+'))
-- A call that comes after its successor must not claim for nobody.
if last and last > tonumber(number) then return {'done', {}, answers} end
local again = last == tonumber(number)
if not again and ARGV[11] == 'inbox' and redis.call('XLEN', KEYS[1]) > 0 then return {'inbox', {}, answers} end

-- Whether there is nothing but new jobs that wait for their turn.
local plain = not (again or counts or flags[1] == '1' or (tonumber(flags[2]) or 0) > 0 or flags[3] or ARGV[11] == 'urgent')
  and redis.call('EXISTS', Q .. 'urgent') == 0
if plain then
  local lease = redis.call('ZRANGE', Q .. 'leases', 0, 0, 'WITHSCORES')[2]
  plain = not (lease and tonumber(lease) <= NOW)
end
if plain then
  local due = redis.call('ZRANGE', Q .. 'due', 0, 0, 'WITHSCORES')[2]
  plain = not (due and tonumber(due) <= NOW_US)
end

-- Claims new jobs in turn, until another kind of job comes up: that is put back.
if plain then
  local ready, turns = Q .. 'ready:', Q .. 'turns'
  local token, until_ms = string.format('%.0f', NOW_US), string.format('%.0f', NOW + lease_ms)
  local leased, taken, new = {'ZADD', Q .. 'leases'}, {'ZREM', Q .. 'state:queued'}, 0
  while plain and new < most and bytes < most_bytes do
    local lanes = redis.call('ZRANGE', turns, 0, most < 64 and most or 64)
    if not lanes[1] then break end
    local level, count = string.sub(lanes[1], 1, 2), 1
    while lanes[count + 1] and string.sub(lanes[count + 1], 1, 2) == level do count = count + 1 end
    -- Only those that were read take turns here; with more than these, each once.
    local rest = count > most or count > 64
    if rest then count = count - 1 end
    local first = level * 2 ^ 47 + redis.call('HINCRBY', Q .. 'meta', 'turn', most) - most
    local served, at, left = {}, 1, count
    while left > 0 and plain and new < most and bytes < most_bytes do
      local lane = lanes[at]
      if lane then
        local want = (left == 1 and not rest) and math.min(most - new, 64) or 1
        local page = redis.call('ZPOPMIN', ready .. lane, want)
        served[lane] = served[lane] or false
        for i = 1, #page, 2 do
          local seq, id = string.match(page[i], '^(%d+)|[^|]*|(.*)$')
          local ours = false
          if plain and bytes < most_bytes then
            local key = P .. 'job:' .. id
            local row = redis.pcall('HMGET', key, 'state', 'closed')
            local by = row[1] == 'queued' and row[2]
            -- One that was never claimed: its place in the lane says all of it.
            if by and (string.sub(by, 1, 7) == 'submit ' or string.sub(by, 1, 6) == 'entry ') then
              local data = redis.pcall('GET', Q .. 'data:' .. id)
              if type(data) == 'string' then
                local set = redis.pcall('HSET', key, 'state', 'running', 'closed', 'queue', 'token', token, 'status',
                  'in_progress', 'runs', '1', 'runner', runner, 'startedAt', NOW_ISO)
                ours = type(set) == 'number'
                if ours then
                  new, bytes = new + 1, bytes + #data
                  claims[new] = {id, NOW_US, 'queue', data, math.floor(seq / 1000), 1, 0, 0, 0, 0, 0, 0}
                  told[new + 1] = id .. ' ' .. token
                  leased[2 * new + 1], leased[2 * new + 2] = until_ms, id
                  taken[new + 2] = id
                end
              end
            end
            plain = ours
          end
          if ours then
            first = first + 1
            served[lane] = first
          else
            redis.call('ZADD', ready .. lane, page[i + 1], page[i])
          end
        end
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
    local order = {'ZADD', turns, 'XX'}
    for lane, turn in pairs(served) do
      if redis.call('EXISTS', ready .. lane) == 0 then
        redis.call('ZREM', turns, lane)
      elseif turn then
        order[#order + 1] = string.format('%.0f', turn)
        order[#order + 1] = lane
      end
    end
    if order[4] then redis.call(unpack(order)) end
  end
  if new > 0 then
    redis.call(unpack(leased))
    redis.call(unpack(taken))
  end
end
local more = false
if not plain then more = claim_whole(claims, told, bytes, most_bytes, counts, before, last) end
if claims[1] then
  redis.call('SET', process, table.concat(told, '\n'), 'PX', string.format('%.0f', lease_ms + 1000))
end
return {more and 'more' or 'done', claims, answers}
