-- uses: records guards specs inserting admitting document swapping
-- Store jobs and documents, all or none, in order, and count. Jobs alone go through enqueue.lua or enqueue_guarded.lua.
--
-- KEYS     fixed
-- ARGV     4, 5 as enqueue_guarded.lua  6 how many swaps  7 how many gates  8 counts (lib/base.lua)
--          9 joins: six values each, 10 ids of joins to seal, 11 {join, id} of those that enter (msgpack arrays,
--          lib/joining.lua)  12... swaps (lib/swapping.lua), then of each gate its name and in how many ms it is looked at, -1 for not by
--          itself, then ids, bodies and guards as enqueue_guarded.lua
-- Returns  as enqueue_guarded.lua, the version of each document, 0 for one that was removed, and the time
--          or, with nothing stored: "\0lost", the documents as they stand: version, value of each, and the time
-- Cost     O(jobs log stored + swaps log documents); a full server refuses its first write

local gates = 13 + 4 * tonumber(ARGV[6])
local first = gates + 2 * tonumber(ARGV[7])
local made, seals, enters = cmsgpack.unpack(ARGV[9]), cmsgpack.unpack(ARGV[10]), cmsgpack.unpack(ARGV[11])
local known = G.knows_joins(made)
local lost = G.lost(ARGV, 12, gates - 1, known)
if lost then return { '\0lost', lost, boot } end
G.make_joins(made)
local runs = plans_of(cmsgpack.unpack(ARGV[4]))
G.admit(ARGV, first + (#ARGV - first + 1) / 3 * 2, runs, false)
local unique, look = string.sub(ARGV[5], 1, 1) == '1', string.sub(ARGV[5], 2) == '1'
local answers, stored = insert(ARGV, first, runs, unique, true, look)
if answers == false then return { '\0lapsed', stored } end
if not answers then return { -1, G.new.raised[1], G.new.raised[2] } end
local versions = G.swap(ARGV, 12, gates - 1)
G.joined(made, seals, enters)
for i = gates, first - 1, 2 do
  local in_ms = tonumber(ARGV[i + 1])
  if in_ms < 0 then call('ZREM', K.GATES, ARGV[i]) else G.open(ARGV[i], in_ms > 0 and boot + in_ms or 0) end
end
finish_script(ARGV[8])
return { stored, answers, G.new.others, versions, boot }
