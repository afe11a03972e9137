-- uses: records guards
-- Store progress, and that the job is no longer only held, where the fence holds.
--
-- KEYS     fixed
-- ARGV     4... id, fence, progress ("" leaves what there is)
-- Returns  mark, one "1" (applied) or "0" (stale) a note
-- Cost     O(notes)

allow_growth()
local ids = {}
for i = 4, #ARGV, 3 do ids[#ids + 1] = ARGV[i] end
load(ids)
local answers = {}
for i, id in ipairs(ids) do
  local job = jobs[id]
  local holds = job and job[STATE] == sRUNNING and job[FENCE] == tonumber(ARGV[3 * i + 2])
  if holds and ARGV[3 * i + 3] ~= '' then hset(PROGRESS, id, ARGV[3 * i + 3]) end
  if holds and job[HELD] then
    job[HELD] = nil
    save(id)
  end
  answers[i] = holds and '1' or '0'
end
return { finish_marked(), table.concat(answers) }
