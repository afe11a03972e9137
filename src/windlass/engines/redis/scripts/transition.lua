-- uses: records guards forgetting
-- Move jobs by hand or by a rule: cancel them, run them again, or delete their records.
--
-- KEYS     fixed
-- ARGV     4 action  5 ms to keep cancelled jobs  6 ms to keep ids that users chose  7 how the jobs are chosen, and 8...
--          named: id, fence of its death or "", ...
--          rule: how many at most, ms from the death on, how often a job may come back, error types...
--          waiting: how many at most, queue
-- Returns  mark, {id, state before or "", moved, why not or "", ...}, inboxes of workers that should look for cancels
-- Cost     O(jobs log stored); of a rule also error types * how often, of waiting ones what is blocked in all queues

allow_growth()
local action, keep, id_keep = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local ids, fences, recovered = {}, {}, {} -- recovered: id of a job that a rule found -> how often before
local choose = {}

function choose.named()
  for i = 8, #ARGV, 2 do
    ids[#ids + 1] = ARGV[i]
    fences[#ids] = tonumber(ARGV[i + 1])
  end
  load(ids)
end

-- The longest dead first.
function choose.rule()
  local limit, before, most = tonumber(ARGV[8]), wall - tonumber(ARGV[9]), tonumber(ARGV[10])
  local found = {}
  for i = 11, #ARGV do
    for recoveries = 0, before >= 0 and most - 1 or -1 do
      local group = ARGV[i] .. '\0' .. struct.pack('>I2', recoveries)
      local size = #group
      local last = '(' .. group .. struct.pack('>I8', before + 1)
      for _, member in ipairs(call('ZRANGEBYLEX', DIED, '[' .. group, last, 'LIMIT', 0, limit)) do
        found[#found + 1] = { sub(member, size + 1, size + 8), sub(member, size + 9), recoveries, member, ARGV[i] }
      end
    end
  end
  table.sort(found, function(a, b)
    if a[1] ~= b[1] then return a[1] < b[1] end
    return a[2] < b[2]
  end)
  local first = {}
  for i = 1, math.min(limit, #found) do first[i] = found[i][2] end
  load(first)
  for i, id in ipairs(first) do
    local job, recoveries, member = jobs[id], found[i][3], found[i][4]
    if job and job[STATE] == sDEAD and death_spot(id, job, found[i][5], recoveries_of(id)) == member then
      ids[#ids + 1] = id
      recovered[id] = recoveries
    else
      zrem(DIED, member) -- an entry that a lost write left behind
    end
  end
end

-- What waits behind another job goes first, or it would take the place of that one.
function choose.waiting()
  local limit, queue, seen = tonumber(ARGV[8]), ARGV[9], {}
  local function add(id)
    local good = jobs[id] and jobs[id][STATE] == sWAITING and jobs[id][INFO][QUEUE] == queue
    if good and not seen[id] and #ids < limit then
      seen[id] = true
      ids[#ids + 1] = id
    end
    return good
  end
  for _, id in ipairs(call('HKEYS', K.BLOCKED_BY)) do
    if #ids >= limit then return end
    load({ id })
    add(id)
  end
  for _, index in ipairs({ { kREADY, 13 }, { kDUE, 21 }, { kALONE, 13 } }) do
    local key = KEYS[at[queue] + index[1]]
    local members = #ids < limit and call('ZRANGE', key, 0, limit - #ids - 1) or {}
    local found = {}
    for i, member in ipairs(members) do found[i] = sub(member, index[2]) end
    load(found)
    for i, id in ipairs(found) do
      if not add(id) then zrem(key, members[i]) end -- an entry that a lost write left behind
    end
  end
end

local reply, inboxes, gone = {}, {}, {}

local function state_name(id, job)
  if job[STATE] == sWAITING and G.gate_of(id) then return 'blocked' end
  if job[STATE] == sWAITING then return job[RUN_AT] > wall and 'scheduled' or 'ready' end
  return ({ 'running', 'done', 'dead', 'cancelled' })[job[STATE]]
end

local act = {}

local function end_waiting(id, job, reason)
  leave_waiting(id, job)
  finish(id, job, sCANCELLED, keep)
  hset(REASON, id, reason)
  count_more('total:cancelled', 1)
end

function act.cancel(id, job)
  if job[STATE] == sWAITING then
    end_waiting(id, job, 'cancelled')
  elseif job[STATE] == sRUNNING then
    job[CANCEL] = 1
    zadd(CANCELS, 0, job[WORKER] .. '\0' .. id)
    local worker = call('HGET', WORKERS, job[WORKER])
    worker = G.unpacked(worker, 'nsss')
    if worker then inboxes[#inboxes + 1] = worker[2] end
  else
    return false
  end
  save(id)
  return true
end

function act.skip(id, job)
  if job[STATE] ~= sWAITING then return false end
  end_waiting(id, job, 'skipped by hand')
  save(id)
  return true
end

-- A finished or scheduled job is made ready with a fresh budget; its history stays. One that has ended needs its unique
-- key again: where another job has taken that, it stays as it is, and the reason is left in it.
function act.retry(id, job, state)
  if state ~= 'dead' and state ~= 'cancelled' and state ~= 'scheduled' then return false end
  local g = state ~= 'scheduled' and G.of(id)
  if g and g[3][1] then
    local taken, why = G.take_key(id, g)
    if not taken then
      hset(REASON, id, why)
      return false, why
    end
  end
  leave(id, job)
  if g and g[4] then
    G.member_again(id, g[4])
    G.drop_wait(id, g[4][2]) -- it runs whatever it waited for
  end
  for _, field in ipairs({ ATTEMPT, CRASHES, INTERRUPTIONS, SNOOZES, CANCEL, FINISHED, PURGE, RETRYING }) do
    job[field] = 0
  end
  job[RUN_AT] = wall
  stand_at_due_time(job)
  job[EXPIRES_AT] = job[INFO][EXPIRES_MS] < 0 and 0 or wall + job[INFO][EXPIRES_MS]
  hdel(REASON, id)
  hdel(RESULT, id)
  hdel(RECOVERIES, id)
  if recovered[id] then hset(RECOVERIES, id, recovered[id] + 1) end
  wait_again(id, job)
  save(id)
  return true
end

function act.delete(id, job)
  if job[STATE] == sRUNNING then return false end
  gone[#gone + 1] = id
  gone[id] = true
  return true
end
act.discard, act.trim = act.delete, act.delete

choose[ARGV[7]]()
for i, id in ipairs(ids) do
  local job = not gone[id] and jobs[id]
  local state = job and state_name(id, job) or ''
  local moved, why = false, nil
  if job and (not fences[i] or state == 'dead' and job[FENCE] == fences[i]) then moved, why = act[action](id, job, state) end
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4] = id, state, moved and 1 or 0, why or ''
end
forget(gone, action == 'delete' and -math.huge or id_keep)
if action == 'trim' then count_more('total:trimmed', #gone) end
return { finish_marked(), reply, inboxes }
