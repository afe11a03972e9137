-- uses: records guards inserting admitting settling running circuits judging bounding claiming
-- Settle, then claim, in one step.
--
-- KEYS     fixed
-- ARGV     4-12 as claim.lua; 13... as settle.lua from its 4
-- Returns  mark, what settle.lua answers, what claim.lua answers
-- Cost     the two together

allow_growth()
local answers = settle(13)
-- What was settled is said even if the claim meets a key of another type: the next claim says so.
local good, claimed = pcall(claim, 4)
if not good then claimed = { 0, 0, {}, 0, {}, {}, {}, '' } end
return { finish_marked(), answers, claimed }
