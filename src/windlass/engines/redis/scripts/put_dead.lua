-- uses: records guards
-- Store dead jobs as they were, where no record has their id; or write what they were asked to do over the same deaths.
--
-- KEYS     fixed
-- ARGV     4 "1" to write over  5 ms to keep them  6... for each: id, fence, its body up to the end of the head, the rest of
--          it but for its place, record, recoveries, cause, errors, reason, guards ("" for none), notes
--          (msgpack array: key, text, ...)
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

local function store(id, fence, start, rest, record, recoveries, cause, errors, reason, guards, notes)
  if jobs[id] ~= nil or call('HEXISTS', BODY, id) == 1 then return false end
  local job = read(record)
  if not job then return false end
  job[PURGE], job[PLACE] = wall + keep, job[RUN_AT] + BIAS
  job[SEQ] = G.raise(META, 'seq', 1, function() return tonumber(call('ZREVRANGE', ARRIVALS, 0, 0, 'WITHSCORES')[2] or 0) end)
  jobs[id] = job
  count_more('total:restored', 1)
  hset(BODY, id, start .. rest .. struct.pack('>I6I6', job[PLACE], job[SEQ]))
  zadd(ARRIVALS, job[SEQ], id)
  zadd(DEAD, job[FINISHED], id)
  zadd(DEAD_PURGE, job[PURGE], id)
  if recoveries ~= '0' then call('HSET', RECOVERIES, id, recoveries) end
  if cause ~= '' then set_cause(id, job, cause) end
  for key, text in pairs({ [ERRORS] = errors, [REASON] = reason }) do
    if text ~= '' then hset(key, id, text) end
  end
  put_guards(id, guards)
  for i = 1, #notes, 2 do G.note(id, notes[i], notes[i + 1]) end
  zrem(TOMBS, id)
  save(id)
  call('HSET', META, 'fence', text_of(math.max(G.number('fence'), fence)))
  return true
end

local answers = {}
for i = 6, #ARGV, 11 do
  local id, fence, start, rest, record, recoveries, cause, errors, reason, guards, notes = unpack(ARGV, i, i + 10)
  fence = tonumber(fence)
  local good
  if over then
    good = write_over(id, fence, rest, guards)
  else
    good = store(id, fence, start, rest, record, recoveries, cause, errors, reason, guards, cmsgpack.unpack(notes))
  end
  answers[#answers + 1] = good and '1' or '0'
end
return { finish_marked(), table.concat(answers) }
