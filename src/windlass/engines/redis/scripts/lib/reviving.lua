-- A finished or scheduled job is made ready with a fresh budget; its history stays. One that has ended needs its unique
-- key again: gives false, and leaves the reason, where another job has taken that.

local function revive(id, job)
  local g = job[STATE] ~= sWAITING and G.of(id)
  if g and g[3][1] and g[3][2] ~= 'expiry' then
    local key = g[3][1]
    local u = G.holder(key)
    if u and u[1] ~= id then
      hset(REASON, id, 'unique key ' .. key .. ' is taken by ' .. u[1])
      return false
    end
    G.hold_key(key, { id, '', g[3][2], g[3][3] >= 0 and wall + g[3][3] or -1 })
  end
  leave(id, job)
  for _, field in ipairs({ ATTEMPT, CRASHES, INTERRUPTIONS, SNOOZES, CANCEL, FINISHED, PURGE, RETRYING }) do
    job[field] = 0
  end
  job[RUN_AT] = wall
  stand_at_due_time(job)
  job[EXPIRES_AT] = job[INFO][EXPIRES_MS] < 0 and 0 or wall + job[INFO][EXPIRES_MS]
  hdel(REASON, id)
  hdel(RESULT, id)
  hdel(RECOVERIES, id)
  wait_again(id, job)
  save(id)
  return true
end
