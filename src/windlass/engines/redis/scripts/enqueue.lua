-- uses: inserting
-- Store jobs that have no guards, all or none, in order. Insert if absent by id.
--
-- KEYS     fixed
-- ARGV     4 specs in runs (msgpack array, lib/inserting.lua)  5 "1" when no id is there twice  6... ids, then bodies
-- Returns  how many jobs were ever stored, one "0" (stored) or "1" (duplicate) a job
-- Cost     O(jobs log stored); a full server refuses its first write

local answers, stored = insert(ARGV, 6, plans_of(cmsgpack.unpack(ARGV[4])), ARGV[5] == '1')
finish_script()
return { stored, answers }
