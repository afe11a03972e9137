-- What happens to jobs whose worker did not say how they went. An error comes in two texts around its time and attempt.

local function error_text(head, attempt)
  return string.format('%s%.0f,"attempt":%.0f}', head, wall, attempt)
end

-- A job that left running without an outcome: dead for `reason`, or back to wait. Gives "again", "dead" or "cancelled".
local function end_or_wait(id, job, reason, keep_done, keep_dead, cause)
  local how = 'again'
  hdel(REASON, id)
  if reason and job[CANCEL] == 0 then
    finish(id, job, sDEAD, keep_dead)
    hset(REASON, id, reason)
    set_cause(id, job, cause)
    count_more('total:dead', 1)
    how = 'dead'
  elseif not wait_unless_cancelled(id, job, keep_done) then
    how = 'cancelled'
  end
  save(id)
  return how
end

-- An interruption is free until there have been too many; then each costs an attempt, and the last one is the end.
local function interrupt(id, job, max, head, keep_done, keep_dead, cause)
  local costs = job[INTERRUPTIONS] >= max
  leave_running(id, job)
  job[INTERRUPTIONS] = job[INTERRUPTIONS] + 1
  stay_due(job)
  if costs then
    job[ATTEMPT] = job[ATTEMPT] + 1
    add_error(id, error_text(head, job[ATTEMPT]))
  end
  local over = costs and job[ATTEMPT] >= job[INFO][MAX_ATTEMPTS]
  return end_or_wait(id, job, over and 'interrupted', keep_done, keep_dead, cause)
end

-- A started job of a dead process: first charge at once, from the second alone and later, at the last dead.
local function charge(id, job, max, delay, longest, head, keep_done, keep_dead, cause)
  leave_running(id, job)
  add_error(id, error_text(head, job[ATTEMPT] + 1))
  local before = job[CRASHES]
  job[CRASHES] = before + 1
  if before >= 1 then job[RUN_AT] = wall + math.min(longest, delay * 2 ^ (before - 1)) else stay_due(job) end
  count_more('total:crashed', 1)
  return end_or_wait(id, job, job[CRASHES] >= max and 'poison', keep_done, keep_dead, cause)
end

local function release(id, job, keep_done)
  leave_running(id, job)
  stay_due(job)
  hdel(REASON, id)
  local again = wait_unless_cancelled(id, job, keep_done)
  save(id)
  return again
end

local function forget_worker(worker)
  hdel(WORKERS, worker)
  zrem(LEASES, worker)
end
