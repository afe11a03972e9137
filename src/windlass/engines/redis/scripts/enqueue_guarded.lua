-- uses: records guards specs inserting admitting
-- Store jobs of which some have guards, all or none, in order. Insert if absent by id.
--
-- KEYS     fixed
-- ARGV     4 specs in runs (msgpack array, lib/inserting.lua)  5 "1" when no id is there twice, and "1" to look for what has lapsed  6... ids, then bodies,
--          then guards (lib/guards.lua) or ""
-- Returns  how many jobs were ever stored, one "0" (stored) or "1" (duplicate) a job, {place, id that has the key, ...}
--          or, with nothing stored: -1, id of the job that has a unique key, the key
--          or, with nothing stored: "\0lapsed", ids for lapse.lua
-- Cost     O(jobs log stored); a full server refuses its first write

local runs = plans_of(cmsgpack.unpack(ARGV[4]))
G.admit(ARGV, 6 + (#ARGV - 5) / 3 * 2, runs, false)
local unique, look = string.sub(ARGV[5], 1, 1) == '1', string.sub(ARGV[5], 2) == '1'
local answers, stored = insert(ARGV, 6, runs, unique, true, look)
if answers == false then return { '\0lapsed', stored } end
if not answers then return { -1, G.new.raised[1], G.new.raised[2] } end
finish_script()
return { stored, answers, G.new.others }
