-- uses: records guards forgetting
-- Delete the records of dead jobs, each if this is still its death.
--
-- KEYS     fixed
-- ARGV     4 "1" to count them as trimmed  5 ms to keep ids that users chose  6... id, fence
-- Returns  mark, one "1" (deleted) or "0" a death
-- Cost     O(deaths log stored)

allow_growth()
local ids = {}
for i = 6, #ARGV, 2 do ids[#ids + 1] = ARGV[i] end
load(ids)
local answers, gone, seen = {}, {}, {}
for i, id in ipairs(ids) do
  local job = jobs[id]
  local dead = job and job[STATE] == sDEAD and job[FENCE] == tonumber(ARGV[2 * i + 5]) and not seen[id]
  if dead then
    seen[id] = true
    gone[#gone + 1] = id
  end
  answers[i] = dead and '1' or '0'
end
forget(gone, tonumber(ARGV[5]))
if ARGV[4] == '1' then total('trimmed', #gone) end
return { finish_marked(), table.concat(answers) }
