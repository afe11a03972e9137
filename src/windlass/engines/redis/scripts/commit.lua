-- uses: records guards specs inserting admitting swapping
-- Store jobs and documents, all or none, in order, and count. Jobs alone go through enqueue.lua or enqueue_guarded.lua.
--
-- KEYS     fixed
-- ARGV     4, 5 as enqueue_guarded.lua  6 how many swaps  7 counts (lib/base.lua)  8... swaps (lib/swapping.lua),
--          then ids, bodies and guards as enqueue_guarded.lua
-- Returns  as enqueue_guarded.lua, and the version of each document, 0 for one that was removed
--          or, with nothing stored: "\0lost", and the documents as they stand: version, value of each
-- Cost     O(jobs log stored + swaps log documents); a full server refuses its first write

local first = 8 + 4 * tonumber(ARGV[6])
local lost = G.lost(ARGV, 8, first - 1)
if lost then return { '\0lost', lost } end
local runs = plans_of(cmsgpack.unpack(ARGV[4]))
G.admit(ARGV, first + (#ARGV - first + 1) / 3 * 2, runs, false)
local unique, look = string.sub(ARGV[5], 1, 1) == '1', string.sub(ARGV[5], 2) == '1'
local answers, stored = insert(ARGV, first, runs, unique, true, look)
if answers == false then return { '\0lapsed', stored } end
if not answers then return { -1, G.new.raised[1], G.new.raised[2] } end
local versions = G.swap(ARGV, 8, first - 1)
finish_script(ARGV[7])
return { stored, answers, G.new.others, versions }
