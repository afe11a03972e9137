-- uses: inserting
-- Store jobs, all or none, in order. Insert if absent by id.
--
-- KEYS     fixed; the queues of the batch
-- ARGV     4... id, body, spec for each job (lib/inserting.lua)
-- Returns  how many jobs were ever stored, one "0" (stored) or "1" (duplicate) a job
-- Cost     O(jobs log stored); a full server refuses its first write

local answers, stored = insert(ARGV, 4)
finish_script()
return { stored, answers }
