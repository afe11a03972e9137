-- uses: records guards
-- Write notes of running jobs, and that these are no longer only held, where the fence holds.
--
-- KEYS     fixed
-- ARGV     4... id, fence, key or "", "1" when there is a text, the text, "1" when it is durable: the crash charges go
-- Returns  mark, one "1" (applied) or "0" (stale) a note
-- Cost     O(notes); O(notes of the job) for a new key

allow_growth()
local ids, answers = {}, {}
for i = 4, #ARGV, 6 do ids[#ids + 1] = ARGV[i] end
load(ids)
for i, id in ipairs(ids) do
  local fence, key, has_text, text, durable = unpack(ARGV, 6 * i - 1, 6 * i + 3)
  local job = jobs[id]
  local holds = job and job[STATE] == sRUNNING and job[FENCE] == tonumber(fence)
  if holds and key ~= '' then G.note(id, key, has_text == '1' and text) end
  if holds and (job[HELD] or durable == '1' and job[CRASHES] > 0) then
    job[HELD] = nil
    if durable == '1' then job[CRASHES] = 0 end
    save(id)
  end
  answers[i] = holds and '1' or '0'
end
return { finish_marked(), table.concat(answers) }
