-- Functions that scripts have in common.

-- Lua writes large numbers with an exponent, which nobody reads back.
local function int(number)
  return string.format('%.0f', number)
end

-- A command on a key that may hold another kind of value: then an answer with `err`. Any other error
-- ends the script, before it did anything about that job.
local function try(...)
  local answer = redis.pcall(...)
  if type(answer) == 'table' and answer.err and not string.find(answer.err, 'WRONGTYPE', 1, true) then error(answer) end
  return answer
end

local now_text
local function now_iso()
  now_text = now_text or iso(NOW)
  return now_text
end

-- Wakes who waits, once a script.
local woken
local function wake(why)
  if woken then return end
  woken = true
  redis.call('XADD', WAKE, 'MAXLEN', 1, '*', 'job', why)
end

-- Commands on sets that many jobs have in common: gathered, and done with all jobs at once.
local gathered = {}
local function later(command, key, first, second)
  local list = gathered[command .. key]
  if not list then
    list = {command, key}
    gathered[command .. key] = list
    gathered[#gathered + 1] = list
  end
  list[#list + 1] = first
  if second then list[#list + 1] = second end
end

local function do_gathered()
  for _, list in ipairs(gathered) do redis.call(unpack(list)) end
  gathered = {}
end
