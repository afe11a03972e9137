-- uses: records guards
-- Store dead jobs as they were, where no record has their id; or write what they were asked to do over the same deaths.
--
-- KEYS     fixed
-- ARGV     4 "1" to write over  5 ms to keep them  6... for each: id, fence, its body up to the end of the head, the rest of
--          it but for its place, numbers (attempt, crashes, interruptions, snoozes, started, finished, run_at,
--          recoveries), cause, errors, reason, progress, guards ("" for none)
-- Returns  mark, one "1" (stored) or "0" a job
-- Cost     O(jobs log stored)

allow_growth()
local over, keep = ARGV[4] == '1', tonumber(ARGV[5])

local function put_guards(id, text)
  local before, after = G.of(id), text ~= '' and cmsgpack.unpack(text)
  G.drop(id)
  if not after then return end
  -- A marker past its time stays while a record carries its key, as this one goes on to do.
  if before and before[2] ~= '' and before[2] == after[2] then call('ZADD', K.CARRIERS, 0, after[2] .. '\0' .. id) end
  G.keep(id, text, after)
end

local function write_over(id, fence, rest, guards)
  load({ id })
  local job = jobs[id]
  local body = job and job[STATE] == sDEAD and job[FENCE] == fence and call('HGET', BODY, id)
  if not body or not G.fits(body) then return false end
  hset(BODY, id, sub(body, 1, 14 + struct.unpack('>H', body, 13)) .. rest .. sub(body, -12))
  put_guards(id, guards)
  return true
end

local function store(id, fence, start, rest, numbers, cause, errors, reason, progress, guards)
  if jobs[id] ~= nil or call('HEXISTS', BODY, id) == 1 then return false end
  local number = {}
  for text in string.gmatch(numbers, '[^|]+') do number[#number + 1] = tonumber(text) end
  local seq = G.raise(META, 'seq', 1, function() return tonumber(call('ZREVRANGE', ARRIVALS, 0, 0, 'WITHSCORES')[2] or 0) end)
  local body = start .. rest .. struct.pack('>I6I6', number[7] + BIAS, seq)
  local job = born(body)
  for i, field in ipairs({ ATTEMPT, CRASHES, INTERRUPTIONS, SNOOZES, STARTED, FINISHED }) do job[field] = number[i] end
  job[STATE], job[FENCE], job[PURGE], job[EXPIRES_AT] = sDEAD, fence, wall + keep, 0
  job[FINISHED] = math.max(1, job[FINISHED]) -- 0 is that of a job that has not ended
  jobs[id] = job
  hset(BODY, id, body)
  zadd(ARRIVALS, seq, id)
  zadd(DEAD, job[FINISHED], id)
  zadd(DEAD_PURGE, job[PURGE], id)
  if number[8] > 0 then call('HSET', RECOVERIES, id, number[8]) end
  if cause ~= '' then set_cause(id, job, cause) end
  for key, text in pairs({ [ERRORS] = errors, [REASON] = reason, [PROGRESS] = progress }) do
    if text ~= '' then hset(key, id, text) end
  end
  put_guards(id, guards)
  zrem(TOMBS, id)
  save(id)
  call('HSET', META, 'fence', text_of(math.max(G.number('fence'), fence)))
  return true
end

local answers = {}
for i = 6, #ARGV, 10 do
  local id, fence, start, rest, numbers, cause, errors, reason, progress, guards = unpack(ARGV, i, i + 9)
  fence = tonumber(fence)
  local good
  if over then
    good = write_over(id, fence, rest, guards)
  else
    good = store(id, fence, start, rest, numbers, cause, errors, reason, progress, guards)
  end
  answers[#answers + 1] = good and '1' or '0'
end
return { finish_marked(), table.concat(answers) }
