-- When there will be something to claim: milliseconds from now, 0 for now, -1 for not known; and whether
-- the inbox may hold something.
-- Arguments: 4 how many of a repository may run, 5 group, 6 how long an entry may be pending, in ms.
local group = ARGV[5]
local next_at = -1

local function at(millis)
  millis = math.max(0, millis)
  if next_at < 0 or millis < next_at then next_at = millis end
end

-- Whether a claim would find a job in a lane. What it may not have is held now.
local function has_job(lane)
  if is_paused(lane) then
    close_lane(lane, true)
    return false
  end
  while budget > 0 do
    local first = redis.call('ZRANGE', READY .. lane, 0, 0, 'WITHSCORES')
    if not first[1] then break end
    local repo = repo_in(first[1])
    if not is_full(repo) then return true end
    redis.call('ZREM', READY .. lane, first[1])
    hold(lane, repo, first[1], first[2])
  end
  check_lane(lane)
  return false
end

local function has_ready()
  while budget > 0 do
    local lane = redis.call('ZRANGE', TURNS, 0, 0)[1]
    if not lane then return false end
    if has_job(lane) then return true end
    budget = budget - 1
  end
  return true
end

if redis.call('EXISTS', URGENT) == 1 then
  at(0)
elseif not ALL_PAUSED then
  local lease = redis.call('ZRANGE', LEASES, 0, 0, 'WITHSCORES')[2]
  if lease then at(lease - NOW) end
  promote()
  loosen()
  if more or has_ready() then at(0) end
  local due = redis.call('ZRANGE', DUE, 0, 0, 'WITHSCORES')[2]
  if due then at(math.ceil((due - NOW_US) / 1000)) end
end

local inbox = 0
if redis.call('XLEN', STREAM) > 0 then
  inbox = 1
  local seen, pending = '-', 0
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', STREAM)) do
    local found = {}
    for i = 1, #info, 2 do found[info[i]] = info[i + 1] end
    if found['name'] == group then
      seen, pending = '(' .. found['last-delivered-id'], found['pending']
    end
  end
  if #redis.call('XRANGE', STREAM, seen, '+', 'COUNT', 1) > 0 then at(0) end
  if pending > 0 then
    local oldest = redis.call('XPENDING', STREAM, group, '-', '+', 1)[1]
    if oldest then at(ARGV[6] - oldest[3]) end
  end
end
return {next_at, inbox}
