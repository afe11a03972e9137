-- Settling: end attempts by (id, fence). Each outcome is id, fence (eight bytes), then result, error, reason, cause, notes
-- (msgpack array: key, text or false, ...) as far as its spec says. A spec is "kind|flags|keep|delay"; flags are 1
-- interrupted, 2 result, 4 error, 8 reason, 16 cause, 32 a result that is null and not sent, 64 and 128 that it waits again
-- in the lane of threads or of the event loop, 256 that its record is kept longer than all are, 512 notes, 1024 what the
-- job waits for (msgpack, lib/joining.lua).

G.ENDS = { done = sDONE, dead = sDEAD, cancelled = sCANCELLED }
G.SERIES = {
  done = 'total:done', retry = 'total:retried', dead = 'total:dead', cancelled = 'total:cancelled',
  crash = 'total:crashed',
}
G.USES_ATTEMPT = { done = true, retry = true, dead = true, cancelled = true }

local settle_specs = {}

local function settle_spec(text)
  local spec = settle_specs[text]
  if spec then return spec end
  local kind, flags, keep, delay = string.match(text, '^(%a+)|(%d+)|(%d+)|(%-?%d+)$')
  flags = tonumber(flags)
  spec = {
    kind = kind,
    ends = G.ENDS[kind],
    series = G.SERIES[kind],
    used = G.USES_ATTEMPT[kind] and 1 or 0,
    interrupted = bit.band(flags, 1) ~= 0,
    result = bit.band(flags, 2) ~= 0,
    error = bit.band(flags, 4) ~= 0,
    reason = bit.band(flags, 8) ~= 0,
    cause = bit.band(flags, 16) ~= 0,
    null = bit.band(flags, 32) ~= 0,
    lane = bit.band(flags, 64) ~= 0 and 1 or bit.band(flags, 128) ~= 0 and 2 or nil,
    keep = tonumber(keep),
    kept = bit.band(flags, 256) ~= 0,
    notes = bit.band(flags, 512) ~= 0,
    waits = bit.band(flags, 1024) ~= 0,
    delay = tonumber(delay),
  }
  spec.size = 2 + (spec.result and 1 or 0) + (spec.error and 1 or 0) + (spec.reason and 1 or 0)
    + (spec.cause and 1 or 0) + (spec.notes and 1 or 0) + (spec.waits and 1 or 0)
  if kind == 'done' and not spec.error and not spec.reason and not spec.cause and not spec.notes then
    spec.done = spec.null and '\2\2' or '\2\0'
    spec.times = struct.pack('>I8I8', wall, wall + spec.keep)
    spec.purge = G.ended_at(wall + spec.keep, spec.kept)
  end
  settle_specs[text] = spec
  return spec
end

-- ARGV[place...] are the texts that the spec speaks of.
local function end_attempt(id, job, spec, place)
  local result, error, reason, cause
  if spec.result then result, place = ARGV[place], place + 1 end
  if spec.error then error, place = ARGV[place], place + 1 end
  if spec.reason then reason, place = ARGV[place], place + 1 end
  if spec.cause then cause, place = ARGV[place], place + 1 end
  local notes, wait = {}, nil
  if spec.notes then notes, place = cmsgpack.unpack(ARGV[place]), place + 1 end
  if spec.waits then wait = cmsgpack.unpack(ARGV[place]) end
  for i = 1, #notes, 2 do G.note(id, notes[i], notes[i + 1]) end
  leave_running(id, job)
  G.ran[id] = spec.null and 'null' or result or ''
  job[ATTEMPT] = job[ATTEMPT] + spec.used
  if result then hset(RESULT, id, result) end
  if error then add_error(id, error) end
  if reason then hset(REASON, id, reason) else hdel(REASON, id) end
  if spec.series then count_more(spec.series, 1) end
  if spec.ends then
    finish(id, job, spec.ends, spec.keep, spec.kept)
    if spec.null then job[CANCEL] = NULL end
    if cause then set_cause(id, job, cause) end
  else
    if spec.lane then change_lane(job, spec.lane) end
    if spec.interrupted then job[INTERRUPTIONS] = job[INTERRUPTIONS] + 1 end
    if spec.kind == 'retry' and job[RETRYING] == 0 then job[RETRYING] = job[STARTED] end
    if spec.kind == 'snooze' then job[SNOOZES] = job[SNOOZES] + 1 end
    if spec.kind == 'crash' then job[CRASHES] = job[CRASHES] + 1 end
    if spec.kind == 'release' or wait then
      stay_due(job)
    else
      job[RUN_AT] = wall + spec.delay
      stand_at_due_time(job)
    end
    if wait and job[CANCEL] == 0 then
      G.tie(id, {}, wait)
      G.wait_at(id, job, wait)
    else
      wait_unless_cancelled(id, job, spec.keep)
    end
  end
  save(id)
end

-- A running job is done: the same as end_attempt but for its guards, made of the bytes of the record, for most settles are
-- this. `tails` remembers what follows from head and worker within a batch. False when the job must go the long way.
local function end_done(id, record, spec, fence, tails)
  local tail = sub(record, bHEAD_SIZE, -9)
  local known = tails[tail]
  if known == nil then
    local job = read(record)
    known = job and {
      kept = FORMAT_SIZE + #job[HEAD],
      owner = job[WORKER] .. '\0',
      list = into(zadds, KEYS[at[job[INFO][QUEUE]] + kDONE]),
    }
    if job then G.makes_room(job[INFO][QUEUE]) end
    tails[tail] = known
  end
  if not known then return false end
  local attempt = sub(record, bATTEMPT, bCRASHES - 1)
  local number = struct.unpack('>I4', attempt)
  hset(REC, id, spec.done .. struct.pack('>I4', number + 1) .. sub(record, bCRASHES, bFINISHED - 1) .. spec.times
    .. sub(record, bRUN_AT, known.kept) .. fence)
  hdel(REASON, id) -- why it once waited; most often there is no such hash at all
  zrem(RUNNING, known.owner .. id)
  local list = known.list
  local n = #list
  list[n + 1] = spec.purge
  list[n + 2] = id
  ended[#ended + 1] = id
  jobs[id] = false
  return true
end

-- ARGV[from] says how many outcomes follow, ARGV[from + 1] their specs as enqueue.lua has them; behind the outcomes come
-- follow-ups: outcome number, id, body, spec, guards. Where joins or seals are among them, each write begins with outcome
-- number, "", joins, seals (as commit.lua has them), ""; it is lost when one of its joins is there. Gives a text of one "1" (applied) or "0" (stale) for each outcome.
local function settle(from)
  local argv = ARGV
  local count, runs = tonumber(argv[from]), cmsgpack.unpack(argv[from + 1])
  local ids, fences, plans, texts = {}, {}, {}, {}
  local place, n = from + 2, 0
  for i = 1, #runs, 2 do
    local spec = settle_spec(runs[i])
    for j = n + 1, n + runs[i + 1] do
      ids[j], fences[j], plans[j], texts[j] = argv[place], argv[place + 1], spec, place + 2
      place = place + spec.size
    end
    n = n + runs[i + 1]
  end
  local records = mget(REC, ids)
  local guards = G.know(ids)
  local answers, tails, stale, done = {}, {}, 0, 0
  G.freed = {}
  for i = 1, count do
    local id, record, spec, fence = ids[i], records[i], plans[i], fences[i]
    local job = jobs[id]
    if job == nil and spec.done and record and (sub(record, 1, 2) == '\1\0' or sub(record, 1, 2) == '\1\4') and sub(record, -8) == fence
      and not (guards[i] and G.ties(id)) and end_done(id, record, spec, fence, tails) then
      local result = spec.result and argv[texts[i]]
      if result then hset(RESULT, id, result) end
      if guards[i] then -- as leave_running and finish do
        G.ran[id] = spec.null and 'null' or result or ''
        G.stopped(id)
        G.ended(id, true)
      end
      done = done + 1
      answers[i] = '1'
    else
      if job == nil then
        job = record and read(record) or false -- one that has no record never ran
        if record and not job then G.note_damage(id, 'its record is not readable') end
        jobs[id] = job
      end
      if job and job[STATE] == sRUNNING and job[FENCE] == struct.unpack('>I8', fence) then
        end_attempt(id, job, spec, texts[i])
        answers[i] = '1'
      else
        stale = stale + 1
        answers[i] = '0'
      end
    end
  end
  G.let_go()
  count_more('total:done', done)
  count_more('total:stale', stale)
  if place <= #argv then
    local new, bodies, guards, plans, guarded, made, seals, lost = {}, {}, {}, {}, false, {}, {}, false
    for i = place, #argv, 5 do
      if answers[tonumber(argv[i])] ~= '1' then
        -- stale
      elseif argv[i + 1] == '' then
        local joins = cmsgpack.unpack(argv[i + 2])
        lost = G.knows_joins(joins)
        if not lost then
          G.make_joins(joins)
          for _, value in ipairs(joins) do made[#made + 1] = value end
          for _, id in ipairs(cmsgpack.unpack(argv[i + 3])) do seals[#seals + 1] = id end
        end
      elseif not lost then
        new[#new + 1] = argv[i + 1]
        bodies[#bodies + 1] = argv[i + 2]
        plans[#plans + 1] = argv[i + 3]
        plans[#plans + 1] = 1
        guards[#guards + 1] = argv[i + 4]
        guarded = guarded or argv[i + 4] ~= ''
      end
    end
    for _, body in ipairs(bodies) do new[#new + 1] = body end
    plans = plans_of(plans)
    if guarded then G.admit(guards, 1, plans, true) end
    if #bodies > 0 then insert(new, 1, plans, false, guarded) end
    if #made + #seals > 0 then G.joined(made, seals, {}) end
  end
  if G.advance then G.advance() end
  flush(true)
  return table.concat(answers)
end
