-- Begins the scripts that run most, with as little as most calls of them need: each name and each function
-- that a script makes, it makes in each call.
local Q, P = KEYS[1] .. ':', string.sub(KEYS[1], 1, -10)
local clock = redis.call('TIME')
local NOW_US = clock[1] * 1000000 + clock[2]
local NOW = math.floor(NOW_US / 1000)

