-- uses: records
-- Delete waiting jobs of a queue.
--
-- KEYS     fixed; the queue
-- ARGV     4 queue  5 limit
-- Returns  mark, how many went
-- Cost     O(limit log stored)

allow_growth()
local base, left, gone = at[ARGV[4]], tonumber(ARGV[5]), 0
for _, index in ipairs({ { kREADY, 13 }, { kDUE, 21 }, { kALONE, 13 } }) do
  local key = KEYS[base + index[1]]
  local members = left > 0 and call('ZRANGE', key, 0, left - 1) or {}
  local ids = {}
  for i, member in ipairs(members) do ids[i] = string.sub(member, index[2]) end
  load(ids)
  for i, id in ipairs(ids) do
    zrem(key, members[i])
    if jobs[id] then leave_waiting(id, jobs[id]) end
    remove(id)
  end
  left = left - #ids
  gone = gone + #ids
end
return { finish_marked(), gone }
