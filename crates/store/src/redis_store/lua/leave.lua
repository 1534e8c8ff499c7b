-- Ends of runs alone. Arguments: from 4 on the runs that end.
local counted_at_all, at = redis.call('HGET', Q .. 'meta', 'counted') == '1', 4
--ENDS--
if failed then error(failed) end
return answers
