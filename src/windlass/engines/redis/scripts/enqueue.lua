-- uses: specs inserting
-- Store jobs that have no guards, all or none, in order. Insert if absent by id.
--
-- KEYS     fixed
-- ARGV     4 specs in runs (msgpack array, lib/inserting.lua)  5 "1" when no id is there twice, and "1" to look for what has lapsed  6... ids, then bodies
-- Returns  how many jobs were ever stored, one "0" (stored) or "1" (duplicate) a job
--          or, with nothing stored: "\0lapsed", ids for lapse.lua
-- Cost     O(jobs log stored); a full server refuses its first write

local runs = plans_of(cmsgpack.unpack(ARGV[4]))
local answers, stored = insert(ARGV, 6, runs, string.sub(ARGV[5], 1, 1) == '1', false, string.sub(ARGV[5], 2) == '1')
if answers == false then return { '\0lapsed', stored } end
finish_script()
return { stored, answers }
