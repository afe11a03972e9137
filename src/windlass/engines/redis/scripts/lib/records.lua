-- Records: what changes of a job, where it is indexed, and how it moves from one state to another.
--
-- A job is a body (BODY, written once) and, from its first change on, a record (REC). Before that its record is what
-- `born` reads from the body. A record is numbers, the head of the body, and the worker's id. Every state has one index,
-- and a job is in the index of its state and in no other.

-- Fields of a record, in the order of FORMAT, which has the length of the head in place of the fence; then texts.
-- PRIORITY in a head bears the lane, as a level does. PLACE bears BIAS; RETRYING is when the first run of the present budget that failed began, 0 when none did. CANCEL is 1
-- when a cancel was asked for, and NULL in a done job whose result is null; in the bytes of a running job that is only
-- held ahead it is HELD_BIT more.
local STATE, CANCEL, ATTEMPT, CRASHES, INTERRUPTIONS, SNOOZES, STARTED = 1, 2, 3, 4, 5, 6, 7
local FINISHED, PURGE, RUN_AT, PLACE, SEQ, EXPIRES_AT, RETRYING, FENCE = 8, 9, 10, 11, 12, 13, 14, 15
local HEAD, WORKER, INFO, HELD = 16, 17, 18, 19
local FORMAT = '>BBI4I4I4I4I8I8I8I8I6I6I8I8H'
local FORMAT_SIZE = 80
local NULL, HELD_BIT = 2, 4
-- Places of bytes in a record, for claims and settles that need not take it apart.
local bATTEMPT, bCRASHES, bFINISHED, bRUN_AT, bHEAD_SIZE = 3, 7, 27, 43, 79
local sub = string.sub
-- Fields of a head, which job[INFO] holds taken apart.
local QUEUE, PRIORITY, MAX_ATTEMPTS, EXPIRES_MS, CALLER_ID = 1, 2, 3, 4, 5
local SHIFT = 6 -- only of a job that ages: ms that its place is put off by its priority
-- States. A waiting job is ready when its RUN_AT has come, and scheduled before.
local sWAITING, sRUNNING, sDONE, sDEAD, sCANCELLED = 0, 1, 2, 3, 4

G.LAST_MS = 253402300799999 -- the last instant that people can be shown
local HISTORY = 2 ^ 20 -- bytes of the errors of a job; as caps.HISTORY
local ALONE_FROM = 2 -- crash charges from which a job runs with no neighbours

function G.is_head(head)
  if (#head ~= 5 and #head ~= 6) or type(head[1]) ~= 'string' or #head[1] > 128 or not string.find(head[1], '^[%w_.:-]+$') then
    return false
  end
  for i = 2, #head do
    if not G.is_number(head[i]) or head[i] ~= math.floor(head[i]) then return false end
  end
  local lane = math.floor(head[2] / G.LANE + 0.5)
  return lane >= 0 and lane <= 2 and head[3] >= 0 and (head[5] == 0 or head[5] == 1)
end

local heads = {} -- most jobs of a batch share one head
local function head_of(text)
  local head = heads[text]
  if head == nil then
    local good, found = pcall(cmsgpack.unpack, text)
    head = good and type(found) == 'table' and G.is_head(found) and found or false
    heads[text] = head
  end
  return head
end

-- Both give false for bytes that are not ours: such a job is noted as damaged, and its neighbours run.
local function born(body)
  if #body < 26 then return false end
  local stored_at, run_at, size = struct.unpack('>I6I6H', body)
  if #body < 26 + size or stored_at > G.LAST_MS or run_at > G.LAST_MS then return false end
  local place, seq = struct.unpack('>I6I6', body, #body - 11)
  local text = string.sub(body, 15, 14 + size)
  local head = head_of(text)
  if not head then return false end
  local expires_ms = head[EXPIRES_MS]
  return {
    sWAITING, 0, 0, 0, 0, 0, 0, 0, 0, run_at, place, seq, expires_ms < 0 and 0 or run_at + expires_ms, 0, 0, text,
    '', head,
  }
end

-- Whether the parts of a body have room in it.
function G.fits(body)
  if #body < 26 then return false end
  local high, low = string.byte(body, 13, 14)
  return #body >= 26 + high * 256 + low
end

local function read(record)
  if #record < FORMAT_SIZE + 8 then return false end
  local job = { struct.unpack(FORMAT, record) }
  local size = job[FENCE]
  local ends = #record - 8
  if FORMAT_SIZE + size > ends then return false end
  job[FENCE] = struct.unpack('>I8', record, ends + 1)
  job[HEAD] = string.sub(record, FORMAT_SIZE + 1, FORMAT_SIZE + size)
  job[WORKER] = string.sub(record, FORMAT_SIZE + 1 + size, ends)
  job[INFO] = head_of(job[HEAD])
  local state = job[STATE]
  if not job[INFO] or job[CANCEL] > 7 or state > sCANCELLED or (state >= sDONE) ~= (job[PURGE] > 0)
    or state == sRUNNING and job[WORKER] == '' or state >= sDONE and job[FINISHED] == 0 then
    return false
  end
  for field = STARTED, RETRYING do
    if job[field] >= 2 ^ 53 or field ~= PURGE and field ~= PLACE and field ~= EXPIRES_AT and job[field] > G.LAST_MS then
      return false
    end
  end
  if job[FENCE] >= G.NUMBER_MAX then return false end
  if job[CANCEL] >= HELD_BIT then job[CANCEL], job[HELD] = job[CANCEL] - HELD_BIT, true end
  return job
end

-- The fence is last, and the sequence number is last in a body: older Lua hashes only a few bytes of a long string, the
-- last one among them, and a batch of strings that differ elsewhere would all share one hash.
local function written(job)
  return struct.pack(FORMAT, job[1], job[HELD] and job[2] + HELD_BIT or job[2], job[3], job[4], job[5], job[6], job[7], job[8], job[9], job[10], job[11],
    job[12], job[13], job[14], #job[HEAD]) .. job[HEAD] .. job[WORKER] .. struct.pack('>I8', job[FENCE])
end

local function load(ids)
  local records = mget(REC, ids)
  local bare = {}
  for i, id in ipairs(ids) do
    if jobs[id] == nil then
      if records[i] then
        jobs[id] = read(records[i])
        if not jobs[id] then G.note_damage(id, 'its record is not readable') end
      else
        bare[#bare + 1] = id
      end
    end
  end
  for i, body in ipairs(mget(BODY, bare)) do
    if body then
      jobs[bare[i]] = born(body)
      if not jobs[bare[i]] then G.note_damage(bare[i], 'its body is not readable') end
    end
  end
end

local function save(id)
  hset(REC, id, written(jobs[id]))
end

local function spot(id, job)
  return struct.pack('>I6I6', job[PLACE], job[SEQ]) .. id
end

-- The order before the place: the lane, then the priority, but one for all jobs that age.
local function level(job)
  local priority = job[INFO][PRIORITY]
  return job[INFO][SHIFT] and G.lane(priority) * G.LANE or priority
end

-- The scores between which ready jobs are of a lane.
function G.lane_from(lane)
  return lane == 0 and '-inf' or string.format('(%.0f', (lane - 0.5) * G.LANE)
end

function G.lane_to(lane)
  return lane == 2 and '+inf' or string.format('%.0f', (lane + 0.5) * G.LANE)
end

-- Put a job that is in no index into another lane.
local function change_lane(job, lane)
  local head = { unpack(job[INFO]) }
  head[PRIORITY] = head[PRIORITY] + (lane - G.lane(head[PRIORITY])) * G.LANE
  job[HEAD] = cmsgpack.pack(head)
  job[INFO] = head_of(job[HEAD])
end

local function due_spot(id, job)
  return struct.pack('>i8', level(job)) .. spot(id, job)
end

local function stand_at_due_time(job)
  job[PLACE] = place_at(job[RUN_AT] + (job[INFO][SHIFT] or 0))
end

local function wait_again(id, job)
  job[STATE] = sWAITING
  job[WORKER] = ''
  local queue = job[INFO][QUEUE]
  local base = at[queue]
  local run_at = job[RUN_AT]
  if job[CRASHES] >= ALONE_FROM then
    zadd(KEYS[base + kALONE], run_at, spot(id, job))
    lone[queue] = math.min(lone[queue] or run_at, run_at)
  elseif run_at > wall then
    zadd(KEYS[base + kDUE], run_at, due_spot(id, job))
    soonest[queue] = math.min(soonest[queue] or run_at, run_at)
  else
    zadd(KEYS[base + kREADY], level(job), spot(id, job))
    busy[queue] = true
    G.rouse(queue, G.lane(level(job)))
  end
  if job[EXPIRES_AT] > 0 then zadd(EXPIRING, job[EXPIRES_AT], id) end
end

local function leave_waiting(id, job)
  local gate = G.gate_of(id)
  if gate then
    G.unblock(id, job, gate)
    if job[EXPIRES_AT] > 0 then zrem(EXPIRING, id) end
    return
  end
  local base = at[job[INFO][QUEUE]]
  if job[CRASHES] >= ALONE_FROM then
    zrem(KEYS[base + kALONE], spot(id, job))
  else
    zrem(KEYS[base + kREADY], spot(id, job))
    zrem(KEYS[base + kDUE], due_spot(id, job))
  end
  if job[EXPIRES_AT] > 0 then zrem(EXPIRING, id) end
end

local function leave_running(id, job)
  local held = job[WORKER] .. '\0' .. id
  zrem(RUNNING, held)
  if job[CANCEL] == 1 then zrem(CANCELS, held) end
  job[HELD] = nil
  G.makes_room(job[INFO][QUEUE])
  G.stopped(id)
end

-- Numbers that repeat within a batch are turned into text once: the driver of the scripts is slow at it.
local texts = {}
local function text_of(number)
  local text = texts[number]
  if not text then
    text = string.format('%.0f', number)
    texts[number] = text
  end
  return text
end

-- Causes of deaths. A cause is a text, "error type NUL fingerprint NUL frame"; only a dead job has one. By it the job is
-- in DIED as well, whose members sort by error type, then how often it was recovered, then the time of death: so the
-- jobs that a rule of recovery wants lie side by side.

local function death_spot(id, job, kind, recoveries)
  return kind .. '\0' .. struct.pack('>I2I8', recoveries, job[FINISHED]) .. id
end

local function recoveries_of(id)
  return math.max(0, math.min(65535, math.floor(tonumber(call('HGET', RECOVERIES, id) or 0) or 0)))
end

local function set_cause(id, job, text)
  hset(CAUSE, id, text)
  zadd(DIED, 0, death_spot(id, job, string.match(text, '^(.-)%z') or '', recoveries_of(id)))
end

local function drop_cause(id, job)
  local text = call('HGET', CAUSE, id)
  if text then
    hdel(CAUSE, id)
    zrem(DIED, death_spot(id, job, string.match(text, '^(.-)%z') or '', recoveries_of(id)))
  end
end

-- Where a done or cancelled job stands among those of its queue.
function G.ended_at(purge, kept)
  return text_of(kept and purge + G.KEPT or purge)
end

local function finish(id, job, state, keep, kept)
  local purge = wall + keep
  local ties = state ~= sDEAD and G.ties(id)
  if ties and G.is_member(id, ties) then purge, kept = math.min(purge + G.HELD_FOR, G.NUMBER_MAX), true end
  job[STATE] = state
  job[WORKER] = ''
  job[CANCEL] = 0
  job[FINISHED] = wall
  job[PURGE] = purge
  if state == sDEAD then
    zadd(DEAD, wall, id)
    zadd(DEAD_PURGE, purge, id)
  else
    zadd(KEYS[at[job[INFO][QUEUE]] + (state == sDONE and kDONE or kCANCELLED)], G.ended_at(purge, kept), id)
  end
  ended[#ended + 1] = id
  G.ended(id, state == sDONE)
end

local function leave_finished(id, job)
  if job[STATE] == sDEAD then
    drop_cause(id, job)
    zrem(DEAD, id)
    zrem(DEAD_PURGE, id)
  else
    zrem(KEYS[at[job[INFO][QUEUE]] + (job[STATE] == sDONE and kDONE or kCANCELLED)], id)
  end
end

local function leave(id, job)
  if job[STATE] == sWAITING then
    leave_waiting(id, job)
  elseif job[STATE] == sRUNNING then
    leave_running(id, job)
  else
    leave_finished(id, job)
  end
end

local function remove(id)
  G.removed(id)
  G.drop_notes(id)
  for _, key in ipairs({ BODY, REC, RESULT, ERRORS, REASON, PROGRESS, CAUSE, RECOVERIES }) do hdel(key, id) end
  zrem(ARRIVALS, id)
  jobs[id] = false
  ended[#ended + 1] = id
end

-- A job that was due once is so still, also when the clock has stepped back since.
local function stay_due(job)
  job[RUN_AT] = math.min(job[RUN_AT], wall)
end

-- A job whose cancel was asked for ends when it would wait again.
local function wait_unless_cancelled(id, job, keep)
  if job[CANCEL] == 1 then
    finish(id, job, sCANCELLED, keep)
    hset(REASON, id, 'cancelled')
    return false
  end
  wait_again(id, job)
  return true
end

-- Where the JSON object ends that begins at a place.
function G.object_end(text, from)
  local depth, here = 0, from
  while true do
    local place = string.find(text, '["{}]', here)
    local mark = place and sub(text, place, place)
    if mark == '"' then
      repeat
        place = string.find(text, '["\\]', place + 1)
        local escape = place and sub(text, place, place) == '\\'
        if escape then place = place + 1 end
      until not escape
    elseif mark then
      depth = depth + (mark == '{' and 1 or -1)
      if depth == 0 then return place end
    end
    if not place then return nil end
    here = place + 1
  end
end

-- Of a very long history the errors behind the first one go, two for each that comes, so that a job that fails for weeks
-- never grows beyond what a value can hold.
function G.thinned(errors)
  local first = G.object_end(errors, 1)
  for _ = 1, 2 do
    local second = first and G.object_end(errors, first + 2)
    if not second or second >= #errors then return errors end
    errors = sub(errors, 1, first) .. sub(errors, second + 1)
  end
  return errors
end

local function add_error(id, text)
  local before = call('HGET', ERRORS, id)
  if before and #before > HISTORY then before = G.thinned(before) end
  hset(ERRORS, id, before and (before .. ',' .. text) or text)
end

-- Waiting jobs past their expiry end cancelled.
local function expire(id, job, keep)
  finish(id, job, sCANCELLED, keep)
  hset(REASON, id, 'expired')
  save(id)
end

G.promoted = {} -- queue -> lanes of jobs that became ready
-- Make due jobs of one queue ready; gives how many, and the time of the next one.
local function promote(queue, limit)
  local base = at[queue]
  local head = call('ZRANGE', KEYS[base + kDUE], 0, 0, 'WITHSCORES')
  if not head[2] then
    call('ZREM', DUES, queue)
    return 0, nil
  end
  local next_at = tonumber(head[2])
  if next_at > wall then call('ZADD', DUES, next_at, queue) end
  if next_at > wall or limit <= 0 then return 0, next_at end
  local due = call('ZRANGEBYSCORE', KEYS[base + kDUE], '-inf', wall, 'LIMIT', 0, limit)
  local args = {}
  for _, member in ipairs(due) do
    if #member > 20 then -- what is shorter is no entry of ours
      local n = #args
      args[n + 1] = (struct.unpack('>i8', member))
      args[n + 2] = string.sub(member, 9)
      G.promoted[queue] = G.promoted[queue] or {}
      G.promoted[queue][G.lane(args[n + 1])] = true
    end
  end
  G.sound(KEYS[base + kREADY])
  call('ZREMRANGEBYRANK', KEYS[base + kDUE], 0, #due - 1)
  send('ZADD', { [KEYS[base + kREADY]] = args })
  call('ZADD', BUSY, 0, queue)
  head = call('ZRANGE', KEYS[base + kDUE], 0, 0, 'WITHSCORES')
  if head[2] then call('ZADD', DUES, head[2], queue) else call('ZREM', DUES, queue) end
  return #due, head[2] and tonumber(head[2])
end

-- What one worker runs: ids, and their records are loaded.
local function held_by(worker, limit)
  local held = call('ZRANGEBYLEX', RUNNING, '[' .. worker .. '\0', '(' .. worker .. '\1', 'LIMIT', 0, limit)
  local ids = {}
  for i, member in ipairs(held) do ids[i] = string.sub(member, #worker + 2) end
  load(ids)
  local good = {}
  for i, id in ipairs(ids) do
    local job = jobs[id]
    if job and job[STATE] == sRUNNING and job[WORKER] == worker then
      good[#good + 1] = id
    else
      zrem(RUNNING, held[i]) -- an entry that a lost write left behind
    end
  end
  return good
end
