-- Arguments: 4 id, 5 JSON, 6 what makes a repetition known, 7 to 11 the wishes.
local outcome, other = admit(ARGV[4], ARGV[5], ARGV[6], {ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11]}, 0)
return {outcome, other or ''}
