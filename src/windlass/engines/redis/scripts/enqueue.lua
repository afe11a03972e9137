-- uses: records guards inserting
-- Store jobs, all or none, in order. Insert if absent by id.
--
-- KEYS     fixed; the queues of the batch
-- ARGV     4... id, body, spec, guards for each job (lib/inserting.lua)
-- Returns  how many jobs were ever stored, one "0" (stored) or "1" (duplicate) a job, {place, id that has the key, ...}
--          or, with nothing stored: -1, id of the job that has a unique key, the key
-- Cost     O(jobs log stored); a full server refuses its first write

local answers, stored, others, taken = insert(ARGV, 4, false)
if taken then return { -1, taken[1], taken[2] } end
finish_script()
return { stored, answers, others }
