-- uses: records guards reviving
-- Make dead jobs ready, each if this is still its death and its unique key is free.
--
-- KEYS     fixed
-- ARGV     4... id, fence
-- Returns  mark, one "1" (made ready) or "0" a death
-- Cost     O(deaths log stored)

allow_growth()
local ids = {}
for i = 4, #ARGV, 2 do ids[#ids + 1] = ARGV[i] end
load(ids)
local answers = {}
for i, id in ipairs(ids) do
  local job = jobs[id]
  local dead = job and job[STATE] == sDEAD and job[FENCE] == tonumber(ARGV[2 * i + 3])
  answers[i] = dead and revive(id, job) and '1' or '0'
end
return { finish_marked(), table.concat(answers) }
