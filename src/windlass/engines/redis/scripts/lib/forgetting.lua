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
