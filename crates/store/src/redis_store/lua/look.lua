-- Looking for what may be claimed. Argument 4: how many of a repository may run at once, 0 for any number.
local CAP = tonumber(ARGV[4])
local meta = redis.call('HMGET', META, 'all', 'owners', 'cap', 'counted')
counted = meta[4] == '1'
if CAP > 0 and not counted then begin_to_count() end

local ALL_PAUSED, OWNERS_PAUSED, HELD_CAP = meta[1] == '1', (tonumber(meta[2]) or 0) > 0, tonumber(meta[3])
-- How much one script does beside claiming: the rest is done by the next.
local budget = 256
-- Something was left to the next.
local more = false

local paused
local function is_paused(lane)
  if not OWNERS_PAUSED then return false end
  if not paused then
    paused = {}
    for _, whom in ipairs(redis.call('SMEMBERS', Q .. 'paused')) do paused[whom] = true end
  end
  return paused['owner:' .. string.sub(lane, 4)]
end

-- The place of a job that has none yet: an older build took it in.
local function find_place(id)
  local data = try('GET', Q .. 'data:' .. id)
  data = type(data) == 'string' and data or ''
  budget = budget - 1 - math.floor(#data / 2000)
  local place = place_in(data)
  local key = P .. 'job:' .. id
  local found = try('HGET', key, 'state')
  if type(found) == 'string' then redis.call('HSET', key, 'place', place) end
  return place
end

-- Lets those whose time has come go to their lanes.
local function promote()
  local due = redis.call('ZRANGEBYSCORE', DUE, '-inf', NOW_US, 'LIMIT', 0, 128)
  if #due == 0 then return end
  more = #due == 128
  for _, id in ipairs(due) do
    if budget <= 0 then
      more = true
      break
    end
    budget = budget - 1
    local row = try('HMGET', P .. 'job:' .. id, 'state', 'due', 'seq', 'place')
    if row.err then row = {} end
    -- A damaged one goes too: who claims it sets it aside.
    if row[1] ~= 'running' and row[1] ~= 'ended' then
      ready(row[4] or find_place(id), tonumber(row[2]) or NOW_US, tonumber(row[3]) or NOW_US, id)
    end
    later('ZREM', DUE, id)
  end
  do_gathered()
end

local running = {}
local function is_full(repo)
  if CAP == 0 then return false end
  local count = running[repo]
  if not count then
    count = redis.call('SCARD', Q .. 'running:' .. repo)
    if count >= CAP then count = count_running(repo) end
    running[repo] = count
  end
  return count >= CAP
end

-- Holds a job whose repository is full.
local function hold(lane, repo, member, due)
  redis.call('ZADD', Q .. 'held:' .. string.sub(lane, 1, 3) .. repo, due, member)
  count_held(lane, repo, 1)
  if HELD_CAP ~= CAP then
    redis.call('HSET', META, 'cap', CAP)
    HELD_CAP = CAP
  end
  budget = budget - 1
end

local function repo_in(member)
  return string.match(member, '^%d+|([^|]*)|')
end

-- What was held under a stricter limit than ours may go.
local function loosen()
  if not HELD_CAP or (CAP ~= 0 and CAP <= HELD_CAP) then return end
  for _, repo in ipairs(redis.call('HRANDFIELD', HELD, 32)) do
    if string.find(repo, '/', 1, true) then reopen(repo) end
  end
end

-- The first lanes, those of one priority; and whether there are more.
local function first_lanes(most)
  local lanes = redis.call('ZRANGE', TURNS, 0, most)
  local first = lanes[1] and string.sub(lanes[1], 1, 2)
  for i = 2, #lanes do
    if i > most or string.sub(lanes[i], 1, 2) ~= first then
      local rest = i > most
      for j = #lanes, i, -1 do lanes[j] = nil end
      return lanes, rest
    end
  end
  return lanes, false
end
