-- uses: records guards specs inserting admitting settling running leases document circuits judging bounding claiming
-- Settle, then claim, in one step.
--
-- KEYS     fixed
-- ARGV     4-13 as claim.lua; 14... as settle.lua from its 5
-- Returns  mark, what settle.lua answers, what claim.lua answers
-- Cost     the two together

allow_growth()
local answers = settle(14)
local claimed = claim(4)
return { finish_marked(ARGV[13]), answers, claimed }
