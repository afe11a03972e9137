-- uses: records guards
-- Look for jobs that are in no index, or whose body is gone; put them right when asked.
--
-- KEYS     fixed
-- ARGV     4 "1" to repair  5 ms to keep ended jobs  6... ids, from the bodies or the records
-- Returns  how many were wrong
-- Cost     O(ids log stored)

local repair, keep = ARGV[4] == '1', tonumber(ARGV[5])
local ids = tail(ARGV, 6)
load(ids)
local bodies = mget(BODY, ids)
local wrong = 0
if repair then allow_growth() end

local function indexed(id, job)
  local base = at[job[INFO][QUEUE]]
  if job[STATE] == sRUNNING then return call('ZSCORE', RUNNING, job[WORKER] .. '\0' .. id) end
  if job[STATE] == sDEAD then return call('ZSCORE', DEAD, id) and call('ZSCORE', DEAD_PURGE, id) end
  if job[STATE] == sDONE then return call('ZSCORE', KEYS[base + kDONE], id) end
  if job[STATE] == sCANCELLED then return call('ZSCORE', KEYS[base + kCANCELLED], id) end
  local gate = G.gate_of(id)
  if gate then return call('ZSCORE', K.BLOCKED, G.place(gate, id, job)) end
  if job[CRASHES] >= ALONE_FROM then return call('ZSCORE', KEYS[base + kALONE], spot(id, job)) end
  return call('ZSCORE', KEYS[base + kREADY], spot(id, job)) or call('ZSCORE', KEYS[base + kDUE], due_spot(id, job))
end

for i, id in ipairs(ids) do
  local job = jobs[id]
  if not bodies[i] then
    wrong = wrong + 1
    if repair then remove(id) end
  elseif not job then
    wrong = wrong + 1 -- not bytes of ours; a person decides
  elseif not (indexed(id, job) and call('ZSCORE', ARRIVALS, id)) then
    wrong = wrong + 1
    if repair then
      zadd(ARRIVALS, job[SEQ], id)
      if not indexed(id, job) then
        if job[STATE] <= sRUNNING then
          put_back(id, job, keep)
        else
          local finished, purge = job[FINISHED], job[PURGE]
          finish(id, job, job[STATE], purge - wall, purge - finished > keep)
          job[FINISHED] = finished
        end
        save(id)
      end
    end
  end
end
if repair then finish_script() end
return { wrong }
