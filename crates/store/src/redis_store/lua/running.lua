-- How many of a repository run: 'running:REPOSITORY' names them.

-- Begins to count: what runs already is in the leases. Of more than these the rest goes uncounted to its
-- end, for a script must not take long.
local function begin_to_count()
  for _, id in ipairs(redis.call('ZRANGE', LEASES, 0, 1999)) do
    local place = try('HGET', P .. 'job:' .. id, 'place')
    if type(place) == 'string' then redis.call('SADD', Q .. 'running:' .. repo_of(place), id) end
  end
  redis.call('HSET', META, 'counted', 1)
  counted = true
end

-- Counts them, and forgets those that run no more: an older build that took one over does not know of
-- the set.
local function count_running(repo)
  local running = redis.call('SMEMBERS', Q .. 'running:' .. repo)
  if #running == 0 or #running > 1000 then return #running end
  local count = 0
  for _, id in ipairs(running) do
    if redis.call('ZSCORE', LEASES, id) then
      count = count + 1
    else
      redis.call('SREM', Q .. 'running:' .. repo, id)
    end
  end
  return count
end
