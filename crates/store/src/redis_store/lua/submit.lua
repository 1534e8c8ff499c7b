-- Keys: 10 status hash, 11 job. Arguments: 3 id, 4 JSON, 5 what makes a repetition known.
local outcome = admit(KEYS[10], KEYS[11], ARGV[3], ARGV[4], ARGV[5], 0)
if outcome == 'queued' then wake(ARGV[3]) end
return outcome
