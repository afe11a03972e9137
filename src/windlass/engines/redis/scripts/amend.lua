-- uses: records guards
-- Replace the body of a dead job and its guards, if this is still its death. The place in it stays.
--
-- KEYS     fixed
-- ARGV     4 id  5 fence  6 body  7 guards ("" for none)
-- Returns  mark, "1" (replaced) or "0"
-- Cost     O(1)

allow_growth()
local id = ARGV[4]
load({ id })
local job = jobs[id]
local dead = job and job[STATE] == sDEAD and job[FENCE] == tonumber(ARGV[5])
if dead then
  hset(BODY, id, ARGV[6])
  G.drop(id)
  if ARGV[7] ~= '' then G.keep(id, ARGV[7], cmsgpack.unpack(ARGV[7])) end
end
return { finish_marked(), dead and '1' or '0' }
