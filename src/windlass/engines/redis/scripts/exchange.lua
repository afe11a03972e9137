-- uses: records guards specs inserting admitting settling running leases document circuits judging bounding claiming
-- Settle, then claim, in one step.
--
-- KEYS     fixed
-- ARGV     4-12 as claim.lua; 13... as settle.lua from its 4
-- Returns  mark, what settle.lua answers, what claim.lua answers
-- Cost     the two together

allow_growth()
local answers = settle(13)
local claimed = claim(4)
return { finish_marked(), answers, claimed }
