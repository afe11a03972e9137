-- uses: records guards
-- Ask to be told when jobs end: a message with the id on the channel that bears the name of AWAITED.
--
-- KEYS     fixed
-- ARGV     4 ms for which to ask  5... ids
-- Returns  how many have not ended
-- Cost     O(ids)

local ids = tail(ARGV, 5)
load(ids)
allow_growth()
local left = 0
for _, id in ipairs(ids) do
  if jobs[id] and jobs[id][STATE] <= sRUNNING then
    left = left + 1
    redis.pcall('ZADD', AWAITED, wall + tonumber(ARGV[4]), id)
  end
end
return left
