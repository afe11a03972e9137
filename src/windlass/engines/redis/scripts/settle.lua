-- uses: records guards specs inserting admitting settling
-- End attempts whose fence still holds.
--
-- KEYS     fixed
-- ARGV     4 how many outcomes; the outcomes; the follow-ups (lib/settling.lua)
-- Returns  mark, one "1" (applied) or "0" (stale) an outcome
-- Cost     O(outcomes log stored)

allow_growth()
local answers = settle(4)
return { finish_marked(), answers }
