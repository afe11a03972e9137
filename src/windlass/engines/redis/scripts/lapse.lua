-- uses: records guards forgetting
-- Make true of some jobs what time has made of them, as a sweep would soon: one that has expired ends, a record that was
-- to stay until now goes.
--
-- KEYS     fixed
-- ARGV     4 ms to keep those that expire  5 ms to keep ids that users chose  6... ids
-- Returns  mark, how many jobs that changed
-- Cost     O(ids log stored)

allow_growth()
local keep, id_keep, ids = tonumber(ARGV[4]), tonumber(ARGV[5]), tail(ARGV, 6)
load(ids)
local past, expired = {}, 0
for _, id in ipairs(ids) do
  local job = jobs[id]
  if job and job[STATE] == sWAITING and job[EXPIRES_AT] > 0 and job[EXPIRES_AT] <= wall then
    leave_waiting(id, job)
    expire(id, job, keep)
    expired = expired + 1
  elseif job and (job[STATE] == sDONE or job[STATE] == sCANCELLED) and job[PURGE] <= wall then
    past[#past + 1] = id
  end
end
count_more('total:cancelled', expired)
flush()
forget(past, id_keep)
return { finish_marked(), expired + #past }
