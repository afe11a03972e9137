-- Records of finished jobs are deleted; ids that users chose leave a tombstone for `id_keep` ms from their end.

local function forget(ids, id_keep)
  load(ids)
  for _, id in ipairs(ids) do
    local job = jobs[id]
    zrem(DEAD, id)
    zrem(DEAD_PURGE, id)
    if job then
      leave(id, job)
      if job[INFO][CALLER_ID] == 1 and job[FINISHED] + id_keep > wall then zadd(TOMBS, job[FINISHED] + id_keep, id) end
    end
    remove(id)
  end
end

function G.collect(list, seen, ids)
  for _, id in ipairs(ids) do
    if not seen[id] then
      seen[id] = true
      list[#list + 1] = id
    end
  end
end

-- Of ids that an index of ended jobs gave, those that have ended; an entry that a lost write left behind is taken out.
function G.ended_of(key, ids)
  local found = {}
  load(ids)
  for _, id in ipairs(ids) do
    if jobs[id] and jobs[id][STATE] < sDONE then zrem(key, id) else found[#found + 1] = id end
  end
  return found
end

-- Those of an index whose time to go has come by its score; one whose record says otherwise gets its place back.
function G.overdue_in(key, from, to, limit, kept)
  local found = {}
  for _, id in ipairs(G.ended_of(key, call('ZRANGEBYSCORE', key, from, to, 'LIMIT', 0, limit))) do
    local job = jobs[id]
    if job and job[PURGE] > wall then
      zadd(key, G.ended_at(job[PURGE], kept), id)
    else
      found[#found + 1] = id
    end
  end
  return found
end

-- Of the queues `names`: finished records past their age, or past their count where they were not promised to stay longer
-- than all.
function G.past_or_over(done_max, budget)
  local pruned, seen = {}, {}
  for _, queue in ipairs(names) do
    for _, kind in ipairs({ kDONE, kCANCELLED }) do
      local key = KEYS[at[queue] + kind]
      for _, kept in ipairs({ false, true }) do
        if #pruned < budget then
          local from, to = kept and text_of(G.KEPT) or '-inf', G.ended_at(wall, kept)
          G.collect(pruned, seen, G.overdue_in(key, from, to, budget - #pruned, kept))
        end
      end
      local over = done_max >= 0 and call('ZCOUNT', key, '-inf', '(' .. text_of(G.KEPT)) - done_max or 0
      if over > 0 and #pruned < budget then
        G.collect(pruned, seen, G.ended_of(key, call('ZRANGE', key, 0, math.min(over, budget - #pruned) - 1)))
      end
    end
  end
  return pruned, seen
end
