-- uses: records guards
-- Look for jobs that are in no index, or whose body is gone; put them right when asked.
--
-- KEYS     fixed
-- ARGV     4 "1" to repair  5 ms to keep ended jobs  6... ids, from the bodies or the records
-- Returns  how many were wrong, ids of those whose record is not sound
-- Cost     O(ids log stored)

local repair, keep = ARGV[4] == '1', tonumber(ARGV[5])
local ids = tail(ARGV, 6)
load(ids)
local bodies = mget(BODY, ids)
local wrong = 0
if repair then allow_growth() end

-- Whether a job may wait at a gate at all, or does so for nobody.
local function waits_at(id, gate)
  local g = G.of(id)
  local wait = g and g[4] and g[4][2]
  if wait and wait[1] and gate == 'join:' .. wait[1] then
    G.dirty[wait[1]] = true -- decide anew, whatever was noted of it
    return G.join(wait[1])
  end
  for _, guard in ipairs(g and g[1] or {}) do
    if guard[2] == gate then return true end
  end
  local key = g and g[3][1]
  local u = key and gate == 'unique:' .. key and G.holder(key)
  return u and u[2] == id
end

local function indexed(id, job)
  local base = at[job[INFO][QUEUE]]
  if job[STATE] == sRUNNING then return call('ZSCORE', RUNNING, job[WORKER] .. '\0' .. id) end
  local function goes_when_due(key)
    local found = tonumber(call('ZSCORE', key, id) or -1)
    return found % 2 ^ 51 == job[PURGE] % 2 ^ 51 and found >= 0
  end
  if job[STATE] == sDEAD then
    return tonumber(call('ZSCORE', DEAD, id) or -1) == job[FINISHED] and goes_when_due(DEAD_PURGE)
  end
  if job[STATE] == sDONE then return goes_when_due(KEYS[base + kDONE]) end
  if job[STATE] == sCANCELLED then return goes_when_due(KEYS[base + kCANCELLED]) end
  local gate = G.gate_of(id)
  if gate then
    if not waits_at(id, gate) then return false end
    if repair and string.sub(gate, 1, 5) ~= 'join:' then zadd(K.GATES, 0, gate) end -- as for joins
    return call('ZSCORE', K.BLOCKED, G.place(gate, id, job))
  end
  local function stands(key, member, score)
    local found = call('ZSCORE', KEYS[base + key], member)
    return found and tonumber(found) == score
  end
  if job[CRASHES] >= ALONE_FROM then return stands(kALONE, spot(id, job), job[RUN_AT]) end
  return stands(kREADY, spot(id, job), level(job)) or stands(kDUE, due_spot(id, job), job[RUN_AT])
end

-- What else has to stand somewhere because of a job, each as {key, score, member}: there is no other trace of it when a
-- key is lost. A Once key that another job has taken since is that one's.
local function ties_of(id, job)
  local found = {}
  local function add(key, score, member) found[#found + 1] = { key, score, member } end
  local state, cause = job[STATE], job[STATE] == sDEAD and call('HGET', CAUSE, id)
  if state == sWAITING and job[EXPIRES_AT] > 0 then add(EXPIRING, job[EXPIRES_AT], id) end
  if cause then add(DIED, 0, death_spot(id, job, string.match(cause, '^(.-)%z') or '', recoveries_of(id))) end
  local g = G.of(id)
  if not g then return found end
  if g[4] then
    for _, join in ipairs(g[4][1]) do
      if call('HEXISTS', K.JOINS, join .. '\0' .. id) == 1 then add(K.TIED, 0, 'm\0' .. join .. '\0' .. id) end
    end
    local gate = state == sWAITING and g[4][2][1] and G.gate_of(id)
    if gate and gate == 'join:' .. g[4][2][1] then add(K.TIED, 0, G.wait_entry('w', id, g[4][2])) end
  end
  if g[2] ~= '' and state ~= sDONE then add(K.CARRIERS, 0, g[2] .. '\0' .. id) end
  local ran = job[ATTEMPT] + job[CRASHES] + job[INTERRUPTIONS] + job[SNOOZES] > 0
  for _, guard in ipairs(g[1]) do
    local gate = guard[2]
    if G.KINDS[guard[1]] == 'places' and state == sRUNNING
      or guard[1] == 'once' and (state == sRUNNING or state == sWAITING and ran) and G.count(K.HOLDS, gate) == 0 then
      add(K.HOLDS, 0, gate .. '\0' .. id)
    end
  end
  return found
end

local function tied(id, job)
  local good = true
  for _, tie in ipairs(ties_of(id, job)) do
    if not call('ZSCORE', tie[1], tie[3]) then
      good = false
      if repair then call('ZADD', tie[1], tie[2], tie[3]) end
    end
  end
  return good
end

-- A queue with a job that is not dead is known by name, and by what it has: else nobody claims from it.
local looked = {}
local function known(queue)
  if looked[queue] ~= nil then return looked[queue] end
  local base, good = at[queue], call('HEXISTS', QUEUES, queue) == 1
  if not good and repair then call('HSETNX', QUEUES, queue, '') end
  if call('EXISTS', KEYS[base + kREADY]) == 1 and not call('ZSCORE', BUSY, queue) then
    good = false
    if repair then call('ZADD', BUSY, 0, queue) end
  end
  for kind, index in pairs({ [kDUE] = DUES, [kALONE] = LONE }) do
    local head = call('ZRANGE', KEYS[base + kind], 0, 0, 'WITHSCORES')[2]
    local found = head and tonumber(call('ZSCORE', index, queue) or nil)
    if head and not (found and found <= tonumber(head)) then
      good = false
      if repair then call('ZADD', index, head, queue) end
    end
  end
  looked[queue] = good
  if repair and not good then G.rouse(queue) end
  return good
end

for i, id in ipairs(ids) do
  local job = jobs[id]
  if job and bodies[i] and not tied(id, job) then wrong = wrong + 1 end
  if job and bodies[i] and job[STATE] ~= sDEAD and not known(job[INFO][QUEUE]) then
    wrong = wrong + 1
    looked[job[INFO][QUEUE]] = true
  end
  if not job or not bodies[i] then
    wrong = wrong + 1 -- made dead by repair.lua, unless nothing but a trace is left of it
    if not (bodies[i] or call('HEXISTS', REC, id) == 1 or call('ZSCORE', ARRIVALS, id)) then
      if repair then remove(id) end
    elseif not bodies[i] then
      G.note_damage(id, 'its body is gone')
    end
  elseif not G.fits(bodies[i]) then
    wrong = wrong + 1
    G.note_damage(id, 'its body is not readable')
  elseif not (indexed(id, job) and tonumber(call('ZSCORE', ARRIVALS, id) or -1) == job[SEQ]) then
    wrong = wrong + 1
    if repair then
      zadd(ARRIVALS, job[SEQ], id)
      if not indexed(id, job) then
        local gate, ties = job[STATE] == sWAITING and G.gate_of(id), G.ties(id)
        local waits = gate and string.sub(gate, 1, 5) == 'join:' or not gate and job[STATE] == sWAITING and ties and ties[2][1]
        if waits and ties and ties[2][1] and G.join(ties[2][1]) then
          leave_waiting(id, job)
          flush()
          G.wait_at(id, job, ties[2])
        elseif waits then -- to run it might do what should never have been done
          G.note_damage(id, 'nobody knows any more what it waited for: look whether it may run')
        elseif job[STATE] <= sRUNNING then
          if job[STATE] == sWAITING then
            leave_waiting(id, job) -- where its score says another place
            flush()
          end
          wait_unless_cancelled(id, job, keep)
        else
          local finished, purge = job[FINISHED], job[PURGE]
          finish(id, job, job[STATE], purge - wall, purge - finished > keep)
          job[FINISHED] = finished
          if job[STATE] == sDEAD then zadd(DEAD, finished, id) end
        end
        save(id)
      end
    end
  end
end
local noted = {}
for id in pairs(G.damaged) do noted[#noted + 1] = id end
if repair then finish_script() end
return { wrong, noted }
