-- uses: records guards
-- Delete waiting jobs of a queue.
--
-- KEYS     fixed
-- ARGV     4 queue  5 limit
-- Returns  mark, how many went
-- Cost     O(limit log stored)

allow_growth()
local queue, left, gone = ARGV[4], tonumber(ARGV[5]), 0
local base = at[queue]

-- Only what waits: of an entry that a lost write left behind nothing but the entry goes.
local function delete(id)
  local job = jobs[id]
  if not job or job[STATE] ~= sWAITING then return end
  leave_waiting(id, job)
  remove(id)
  left = left - 1
  gone = gone + 1
end

-- What has waited behind a job that went has its place in the queue then.
repeat
  local before = gone
  for _, index in ipairs({ { kREADY, 13 }, { kDUE, 21 }, { kALONE, 13 } }) do
    local key = KEYS[base + index[1]]
    local members = left > 0 and call('ZRANGE', key, 0, left - 1) or {}
    local ids = {}
    for i, member in ipairs(members) do ids[i] = string.sub(member, index[2]) end
    load(ids)
    for i, id in ipairs(ids) do
      zrem(key, members[i])
      delete(id)
    end
  end
  for _, id in ipairs(left > 0 and call('HKEYS', K.BLOCKED_BY) or {}) do
    load({ id })
    if left > 0 and jobs[id] and jobs[id][INFO][QUEUE] == queue then delete(id) end
  end
  flush()
until gone == before or left <= 0
return { finish_marked(), gone }
