-- uses: records guards
-- Store dead jobs as they were, where no record has their id.
--
-- KEYS     fixed
-- ARGV     4 ms to keep them  5... for each: id, body without its place, numbers (attempt, crashes, interruptions,
--          snoozes, started, finished, run_at, fence, recoveries), cause, errors, reason, progress, guards ("" for none)
-- Returns  mark, one "1" (stored) or "0" a job
-- Cost     O(jobs log stored)

allow_growth()
local keep = tonumber(ARGV[4])
local answers = {}
for i = 5, #ARGV, 8 do
  local id = ARGV[i]
  local free = jobs[id] == nil and call('HEXISTS', BODY, id) == 0
  answers[#answers + 1] = free and '1' or '0'
  if free then
    local numbers = {}
    for number in string.gmatch(ARGV[i + 2], '[^|]+') do numbers[#numbers + 1] = tonumber(number) end
    local seq = G.raise(META, 'seq', 1, function() return tonumber(call('ZREVRANGE', ARRIVALS, 0, 0, 'WITHSCORES')[2] or 0) end)
    local body = ARGV[i + 1] .. struct.pack('>I6I6', numbers[7] + BIAS, seq)
    local job = born(body)
    job[STATE], job[ATTEMPT], job[CRASHES], job[INTERRUPTIONS], job[SNOOZES], job[STARTED], job[FINISHED] =
      sDEAD, numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], numbers[6]
    job[FENCE], job[PURGE], job[EXPIRES_AT] = numbers[8], wall + keep, 0
    job[FINISHED] = math.max(1, job[FINISHED]) -- 0 is that of a job that has not ended
    jobs[id] = job
    hset(BODY, id, body)
    zadd(ARRIVALS, seq, id)
    zadd(DEAD, job[FINISHED], id)
    zadd(DEAD_PURGE, job[PURGE], id)
    if numbers[9] > 0 then call('HSET', RECOVERIES, id, numbers[9]) end
    if ARGV[i + 3] ~= '' then set_cause(id, job, ARGV[i + 3]) end
    for j, key in ipairs({ ERRORS, REASON, PROGRESS }) do
      if ARGV[i + 3 + j] ~= '' then hset(key, id, ARGV[i + 3 + j]) end
    end
    if ARGV[i + 7] ~= '' then G.keep(id, ARGV[i + 7], cmsgpack.unpack(ARGV[i + 7])) end
    zrem(TOMBS, id)
    save(id)
    call('HSET', META, 'fence', text_of(math.max(G.number('fence'), job[FENCE])))
  end
end
return { finish_marked(), table.concat(answers) }
