-- uses: records guards reviving
-- Cancel, retry or delete jobs.
--
-- KEYS     fixed
-- ARGV     4 action  5 ms to keep cancelled jobs  6... ids
-- Returns  mark, {state before or "", applied, ...}, inboxes of workers that should look for cancels
-- Cost     O(ids log stored)

allow_growth()
local action, keep = ARGV[4], tonumber(ARGV[5])
local ids = {}
for i = 6, #ARGV do ids[#ids + 1] = ARGV[i] end
load(ids)
local reply, inboxes = {}, {}

local function state_name(job)
  if job[STATE] == sWAITING and G.gate_of(job.id) then return 'blocked' end
  if job[STATE] == sWAITING then return job[RUN_AT] > wall and 'scheduled' or 'ready' end
  return ({ 'running', 'done', 'dead', 'cancelled' })[job[STATE]]
end

local function cancel(id, job)
  if job[STATE] == sWAITING then
    leave_waiting(id, job)
    finish(id, job, sCANCELLED, keep)
    hset(REASON, id, 'cancelled')
    total('cancelled', 1)
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

local function again(id, job, state)
  if state ~= 'dead' and state ~= 'cancelled' and state ~= 'scheduled' then return false end
  return revive(id, job)
end

local function delete(id, job)
  if job[STATE] == sRUNNING then return false end
  leave(id, job)
  remove(id)
  return true
end

local act = { cancel = cancel, retry = again, delete = delete }
for i, id in ipairs(ids) do
  local job = jobs[id]
  if job then job.id = id end
  local state = job and state_name(job) or ''
  reply[2 * i - 1] = state
  reply[2 * i] = job and act[action](id, job, state) and 1 or 0
end
return { finish_marked(), reply, inboxes }
