-- Lanes: what waits for its turn. A lane is a priority ('00' the highest, '18' the lowest) and an owner.
-- The jobs of one, by due time and admission, are 'ready:LANE'; TURNS has the lanes that may have
-- something to claim, by priority and turn; aside are those whose every job is held, or whose owner is
-- paused. A job is held in 'held:PLACE', its priority and repository, while that repository runs as many
-- as it may; of one that does not, the first of each priority is in its lane. HELD counts the held, by
-- lane and by repository.
local ASIDE, READY = Q .. 'aside', Q .. 'ready:'
-- Turns of one priority are all before those of the next.
local LEVEL = 2 ^ 47

-- Whether the runs of each repository are counted: from the first look of a process with a limit on.
local counted
local function is_counted()
  if counted == nil then counted = redis.call('HGET', META, 'counted') == '1' end
  return counted
end

local function repo_of(place) return string.sub(place, 4) end
local function lane_of(place) return string.match(place, '^[^/]*') end

local function member_of(place, seq, id)
  return string.format('%016.0f|%s|%s', seq, repo_of(place), id)
end

local function turn_of(lane, turn)
  return int(string.sub(lane, 1, 2) * LEVEL + turn)
end

-- Lets a lane be looked at; one that was forgotten comes last.
local function open_lane(lane)
  if redis.call('ZSCORE', TURNS, lane) then return end
  local turn = redis.call('ZSCORE', ASIDE, lane)
  if turn then
    redis.call('ZREM', ASIDE, lane)
  else
    turn = turn_of(lane, redis.call('HINCRBY', META, 'turn', 1))
  end
  redis.call('ZADD', TURNS, turn, lane)
  wake(lane)
end

-- Takes a lane out of its turn: it comes back to it, or begins anew.
local function close_lane(lane, keep)
  local turn = keep and redis.call('ZSCORE', TURNS, lane)
  redis.call('ZREM', TURNS, lane)
  if turn then redis.call('ZADD', ASIDE, turn, lane) end
  if not keep then redis.call('ZREM', ASIDE, lane) end
end

-- Takes a lane out of its turn if it has no job but held ones.
local function check_lane(lane)
  if redis.call('EXISTS', READY .. lane) == 0 then
    close_lane(lane, redis.call('HGET', HELD, lane))
  end
end

local function ready(place, due, seq, id)
  local lane = lane_of(place)
  redis.call('ZADD', READY .. lane, int(due), member_of(place, seq, id))
  open_lane(lane)
end

local function count_held(lane, repo, by)
  if redis.call('HINCRBY', HELD, lane, by) <= 0 then redis.call('HDEL', HELD, lane) end
  if redis.call('HINCRBY', HELD, repo, by) <= 0 then redis.call('HDEL', HELD, repo) end
  if by < 0 and redis.call('EXISTS', HELD) == 0 then redis.call('HDEL', META, 'cap') end
end

-- Lets the first of each priority of a repository go to its lane.
local function reopen(repo)
  if not redis.call('HGET', HELD, repo) then return end
  for level = 0, 18 do
    local place = string.format('%02d|%s', level, repo)
    local first = redis.call('ZPOPMIN', Q .. 'held:' .. place)
    if first[1] then
      local lane = lane_of(place)
      redis.call('ZADD', READY .. lane, first[2], first[1])
      count_held(lane, repo, -1)
      open_lane(lane)
    end
  end
end

-- Takes a job that waits out of its lane.
local function unready(place, seq, id)
  local lane, repo, member = lane_of(place), repo_of(place), member_of(place, seq, id)
  if redis.call('ZREM', READY .. lane, member) == 1 then
    reopen(repo)
  elseif redis.call('ZREM', Q .. 'held:' .. place, member) == 1 then
    count_held(lane, repo, -1)
  end
  check_lane(lane)
end

-- The place of a job that an older build took in: its JSON says it.
local function place_in(data)
  local parsed, job = pcall(cjson.decode, data or '')
  local owner = parsed and type(job) == 'table' and job.repoOwner
  local name = owner and job.repoName
  if type(owner) ~= 'string' or type(name) ~= 'string' then return '09|/' end
  local asked = type(job.priority) == 'number' and job.priority % 1 == 0 and job.priority or 0
  local level = 9 - math.max(-9, math.min(9, asked))
  return string.format('%02d|%s/%s', level, string.lower(owner), string.lower(name))
end
