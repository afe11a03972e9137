-- uses: records guards specs inserting admitting settling
-- End attempts whose fence still holds.
--
-- KEYS     fixed
-- ARGV     4 counts (lib/base.lua)  5 how many outcomes; the outcomes; the follow-ups (lib/settling.lua)
-- Returns  mark, one "1" (applied) or "0" (stale) an outcome
-- Cost     O(outcomes log stored)

allow_growth()
local answers = settle(5)
return { finish_marked(ARGV[4]), answers }
