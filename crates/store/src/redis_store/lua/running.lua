-- How many of a repository run: 'running:REPOSITORY' names them.

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
