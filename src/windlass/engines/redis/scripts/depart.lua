-- uses: records guards ending
-- Deregister a worker that ends in order; what it holds is released as interrupted.
--
-- KEYS     fixed
-- ARGV     4 worker  5 max interruptions  6 error text up to its time  7 ms to keep ended jobs  8 ms to keep dead ones
--          9 cause of a death by interruptions
-- Returns  mark, ids that will run again, ids dead
-- Cost     O(held log stored)

allow_growth()
local again, dead = {}, {}
for _, id in ipairs(held_by(ARGV[4], -1)) do
  local how = interrupt(id, jobs[id], tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9])
  if how == 'again' then again[#again + 1] = id elseif how == 'dead' then dead[#dead + 1] = id end
end
forget_worker(ARGV[4])
return { finish_marked(), again, dead }
