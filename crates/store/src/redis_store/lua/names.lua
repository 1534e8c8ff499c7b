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

-- Days to a civil date after Howard Hinnant, "chrono-compatible low-level date algorithms".
local function iso(millis)
  local days = math.floor(millis / 86400000)
  local rest = millis - days * 86400000
  local z = days + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local day = doy - math.floor((153 * mp + 2) / 5) + 1
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03dZ', year, month, day,
    math.floor(rest / 3600000), math.floor(rest / 60000) % 60, math.floor(rest / 1000) % 60, rest % 1000)
end

