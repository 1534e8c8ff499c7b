-- Admits entries of the inbox, or sets them aside as dead letters.
-- Arguments: 4 group, 5 most dead letters, then for each entry: its id; the job's id, or '' for one
-- that cannot be read, or '-' for one that is gone; the number of the field that holds the job, or
-- the reason; the five wishes, for a job; how many fields and values; these.
local group = ARGV[4]
local counted = {queued = 0, duplicate = 0, joined = 0, wrongtype = 0, dead = 0}
local at, order = 6, 0

local function bury(entry, reason, first, count)
  local letter = {'reason', reason, 'entry', entry}
  for i = first, first + count - 1 do letter[#letter + 1] = ARGV[i] end
  redis.call('XADD', Q .. 'dead', 'MAXLEN', '~', ARGV[5], '*', unpack(letter))
end

while at <= #ARGV do
  local entry, id, what = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local is_job = id ~= '' and id ~= '-'
  local wishes = is_job and {ARGV[at + 3], ARGV[at + 4], ARGV[at + 5], ARGV[at + 6], ARGV[at + 7]}
  at = at + (is_job and 8 or 3)
  local count, first = tonumber(ARGV[at]), at + 1
  at = first + count
  -- An entry that is pending no more was admitted by somebody else, or its group is gone.
  if #redis.call('XPENDING', STREAM, group, entry, entry, 1) == 1 then
    local outcome = 'dead'
    if is_job then
      outcome = admit(id, ARGV[first + tonumber(what)], 'entry ' .. entry, wishes, order)
      if outcome == 'wrongtype' then bury(entry, 'its status key holds another kind of value', first, count) end
    elseif id == '' then
      bury(entry, what, first, count)
    end
    -- Last, since a script that fails is not undone: an entry is acknowledged once it is elsewhere.
    redis.call('XACK', STREAM, group, entry)
    redis.call('XDEL', STREAM, entry)
    counted[outcome] = counted[outcome] + 1
    order = order + 1
  end
end
return {counted.queued, counted.duplicate + counted.joined, counted.wrongtype + counted.dead}
