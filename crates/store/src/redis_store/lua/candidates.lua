-- What may be claimed now: expired leases, then due jobs in order. Arguments: 3 most.
local most = tonumber(ARGV[3])
local found = redis.call('ZRANGEBYSCORE', LEASES, '-inf', NOW, 'LIMIT', 0, most)
if #found < most then
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', DUE, '-inf', int(NOW_US), 'LIMIT', 0, most - #found)) do
    found[#found + 1] = id
  end
end
return found
