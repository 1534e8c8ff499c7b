-- Admits entries of the inbox, or sets them aside as dead letters.
-- Keys: 10 stream, then two for each job: status hash, job.
-- Arguments: 3 group, 4 most dead letters, then for each entry: its id; the job's id, or '' for one
-- that cannot be read, or '-' for one that is gone; the number of the field that holds the job, or
-- the reason; how many fields and values; these.
local stream, group = KEYS[10], ARGV[3]
local counted = {queued = 0, duplicate = 0, wrongtype = 0, dead = 0}
local key, at, order = 11, 5, 0

local function bury(entry, reason, first, count)
  local letter = {'reason', reason, 'entry', entry}
  for i = first, first + count - 1 do letter[#letter + 1] = ARGV[i] end
  redis.call('XADD', DEAD, 'MAXLEN', '~', ARGV[4], '*', unpack(letter))
end

local first_id
while at <= #ARGV do
  local entry, id, what, count = ARGV[at], ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3])
  local first = at + 4
  at = first + count
  local is_job = id ~= '' and id ~= '-'
  -- An entry that is pending no more was admitted by somebody else, or its group is gone.
  if #redis.call('XPENDING', stream, group, entry, entry, 1) == 1 then
    local outcome = 'dead'
    if is_job then
      outcome = admit(KEYS[key], KEYS[key + 1], id, ARGV[first + tonumber(what)], 'entry ' .. entry, order)
      if outcome == 'wrongtype' then bury(entry, 'its status key holds another kind of value', first, count) end
      if outcome == 'queued' then first_id = first_id or id end
    elseif id == '' then
      bury(entry, what, first, count)
    end
    -- Last, since a script that fails is not undone: an entry is acknowledged once it is elsewhere.
    redis.call('XACK', stream, group, entry)
    redis.call('XDEL', stream, entry)
    counted[outcome] = counted[outcome] + 1
    order = order + 1
  end
  if is_job then key = key + 2 end
end
if first_id then wake(first_id) end
return {counted.queued, counted.duplicate, counted.wrongtype + counted.dead}
