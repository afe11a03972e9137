-- uses: records guards
-- Delete waiting jobs of a queue.
--
-- KEYS     fixed
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
local prefix = ARGV[4]
for _, id in ipairs(left > 0 and call('HKEYS', K.BLOCKED_BY) or {}) do
  load({ id })
  local job = jobs[id]
  if left > 0 and job and job[INFO][QUEUE] == prefix then
    leave_waiting(id, job)
    remove(id)
    left = left - 1
    gone = gone + 1
  end
end
return { finish_marked(), gone }
