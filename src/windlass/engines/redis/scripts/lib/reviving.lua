-- A finished or scheduled job is made ready with a fresh budget; its history stays.

local function revive(id, job)
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
end
