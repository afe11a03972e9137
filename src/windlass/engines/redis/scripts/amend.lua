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
  local before, after = G.of(id), ARGV[7] ~= '' and cmsgpack.unpack(ARGV[7])
  G.drop(id)
  if after then
    -- A marker past its time stays while a record carries its key, as this one goes on to do.
    if before and before[2] ~= '' and before[2] == after[2] then call('ZADD', K.CARRIERS, 0, after[2] .. '\0' .. id) end
    G.keep(id, ARGV[7], after)
  end
end
return { finish_marked(), dead and '1' or '0' }
