-- How many of a repository run: 'running:REPOSITORY' names them.

-- Counts them, and forgets those that run no more: an older build that took one over does not know of
-- the set.
local function count_running(repo)
  local running = redis.call('SMEMBERS', Q .. 'running:' .. repo)
  if #running == 0 or #running > 1000 then return #running end
  local leases, count = redis.call('ZMSCORE', LEASES, unpack(running)), 0
  for i, id in ipairs(running) do
    if leases[i] then
      count = count + 1
    else
      redis.call('SREM', Q .. 'running:' .. repo, id)
    end
  end
  return count
end
