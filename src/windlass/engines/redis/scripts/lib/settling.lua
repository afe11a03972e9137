-- Settling: end attempts by (id, fence). Each outcome is id, fence, spec, then result, error, reason as far as the spec
-- says. A spec is "kind|flags|keep|delay"; flags are 1 interrupted, 2 result, 4 error, 8 reason.

local ENDS = { done = sDONE, dead = sDEAD, cancelled = sCANCELLED }
local TOTAL_OF = { done = 'done', retry = 'retried', dead = 'dead', cancelled = 'cancelled', crash = 'crashed' }
local USES_ATTEMPT = { done = true, retry = true, dead = true, cancelled = true }

local settle_specs = {}

local function settle_spec(text)
  local spec = settle_specs[text]
  if spec then return spec end
  local kind, flags, keep, delay = string.match(text, '^(%a+)|(%d+)|(%d+)|(%-?%d+)$')
  flags = tonumber(flags)
  spec = {
    kind = kind,
    ends = ENDS[kind],
    total = TOTAL_OF[kind],
    used = USES_ATTEMPT[kind] and 1 or 0,
    interrupted = bit.band(flags, 1) ~= 0,
    result = bit.band(flags, 2) ~= 0,
    error = bit.band(flags, 4) ~= 0,
    reason = bit.band(flags, 8) ~= 0,
    keep = tonumber(keep),
    delay = tonumber(delay),
  }
  settle_specs[text] = spec
  return spec
end

local function end_attempt(id, job, spec, result, error, reason)
  leave_running(id, job)
  G.ran[id] = result or ''
  job[ATTEMPT] = job[ATTEMPT] + spec.used
  if result then hset(RESULT, id, result) end
  if error then add_error(id, error) end
  if reason then hset(REASON, id, reason) elseif spec.kind ~= 'done' then hdel(REASON, id) end
  if spec.total then total(spec.total, 1) end
  if spec.ends then
    finish(id, job, spec.ends, spec.keep)
  else
    if spec.interrupted then job[INTERRUPTIONS] = job[INTERRUPTIONS] + 1 end
    if spec.kind == 'retry' and job[RETRYING] == 0 then job[RETRYING] = job[STARTED] end
    if spec.kind == 'snooze' then job[SNOOZES] = job[SNOOZES] + 1 end
    if spec.kind == 'crash' then job[CRASHES] = job[CRASHES] + 1 end
    if spec.kind == 'release' then
      stay_due(job)
    else
      job[RUN_AT] = wall + spec.delay
      job[PLACE] = job[RUN_AT] + BIAS
    end
    put_back(id, job, spec.keep)
  end
  save(id)
end

-- ARGV[from] says how many outcomes follow; behind them come follow-ups: outcome number, id, body, spec,
-- guards.
-- Gives a text of one "1" (applied) or "0" (stale) for each outcome.
local function settle(from)
  local count = tonumber(ARGV[from])
  local outcomes, ids = {}, {}
  local place = from + 1
  for i = 1, count do
    local spec = settle_spec(ARGV[place + 2])
    local one = { ARGV[place], tonumber(ARGV[place + 1]), spec }
    place = place + 3
    if spec.result then one[4], place = ARGV[place], place + 1 end
    if spec.error then one[5], place = ARGV[place], place + 1 end
    if spec.reason then one[6], place = ARGV[place], place + 1 end
    outcomes[i], ids[i] = one, one[1]
  end
  load(ids)
  local answers, stale = {}, 0
  for i, one in ipairs(outcomes) do
    local id, job = one[1], jobs[one[1]]
    if job and job[STATE] == sRUNNING and job[FENCE] == one[2] then
      end_attempt(id, job, one[3], one[4], one[5], one[6])
      answers[i] = '1'
    else
      stale = stale + 1
      answers[i] = '0'
    end
  end
  total('stale', stale)
  local follow = {}
  for i = place, #ARGV, 5 do
    if answers[tonumber(ARGV[i])] == '1' then
      for j = 1, 4 do follow[#follow + 1] = ARGV[i + j] end
    end
  end
  if #follow > 0 then insert(follow, 1, true) end
  flush()
  return table.concat(answers)
end
