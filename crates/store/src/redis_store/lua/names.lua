-- Begins every script: names and the time. Its one declared key is the inbox: all other names are made
-- from it, and lie in the same slot, since the prefix with its hash tag is theirs too.
-- Arguments 1 to 3: how long an ended job is kept, in ms; the result of one that was called off; what
-- one waits for whose next run is only to tell of that.
local STREAM = KEYS[1]
local Q, P = STREAM .. ':', string.sub(STREAM, 1, -10)
local DUE, LEASES, ENDED, URGENT, WAKE = Q .. 'due', Q .. 'leases', Q .. 'ended', Q .. 'urgent', Q .. 'wake'
local TURNS, META, HELD = Q .. 'turns', Q .. 'meta', Q .. 'held'
local SETS = {queued = Q .. 'state:queued', parked = Q .. 'state:parked', ended = Q .. 'state:ended'}
local KEEP_MS, CALLED_OFF, TELLS = tonumber(ARGV[1]), ARGV[2], ARGV[3]

-- The server's clock: microseconds order the queue, milliseconds are what people see.
local clock = redis.call('TIME')
local NOW_US = clock[1] * 1000000 + clock[2]
local NOW = math.floor(NOW_US / 1000)

