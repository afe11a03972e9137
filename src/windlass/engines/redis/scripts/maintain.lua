-- uses: records guards leases running ending forgetting leaving naming counting
-- One bounded step of upkeep: promote, reap, expire, prune, forget, fold. Every part looks at the state it changes, so steps
-- of several workers do nothing twice.
--
-- KEYS     fixed
-- ARGV     4 budget  5 max interruptions  6 error text up to its time  7 ms to keep ended jobs  8 ms to keep dead ones
--          9 done jobs that a queue may keep of those not kept longer than 7, or -1  10 dead jobs to keep, or -1  11 ms to keep ids that users chose
--          12 cause of a death by interruptions  13 "1" to hand dead jobs up and not trim them
--          14 how long counts stay apart (msgpack array, lib/counting.lua)
-- Returns  mark, promoted, workers that expired, ids recovered, ids that died, count pruned, ids trimmed,
--          {id, fence, ...} of those handed up,
--          ms to the next lone job or -1, ms to the next due job or -1, "1" when there is more to do, joins that are watched
-- Cost     O(budget log stored + workers + counts)

allow_growth()
local budget, max_interruptions, head = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
local keep_done, keep_dead = tonumber(ARGV[7]), tonumber(ARGV[8])
local done_max, dead_max, id_keep = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])

local pauses = G.some_queues()
for _, queue in ipairs(names) do
  for kind = kREADY, kCANCELLED do G.sound(KEYS[at[queue] + kind]) end
end
local promoted = 0
for _, queue in ipairs(call('ZRANGEBYSCORE', DUES, '-inf', wall, 'LIMIT', 0, budget)) do
  promoted = promoted + promote(queue, budget - promoted)
end

-- Workers whose lease ran out, and owners of running jobs that nobody knows.
local silent = call('ZRANGEBYSCORE', LEASES, '-inf', boot, 'LIMIT', 0, budget)
local gone = {}
for _, worker in ipairs(silent) do gone[#gone + 1] = worker end
local from = '-'
while #gone < budget do
  local first = call('ZRANGEBYLEX', RUNNING, from, '+', 'LIMIT', 0, 1)[1]
  if not first then break end
  local worker = string.match(first, '^(.-)%z') or first
  if not call('ZSCORE', LEASES, worker) then gone[#gone + 1] = worker end
  from = '(' .. worker .. '\1'
end
local expired_workers, recovered, died, released = {}, {}, {}, 0
for i, worker in ipairs(gone) do
  local ids = held_by(worker, budget - released)
  for _, id in ipairs(ids) do
    local how = interrupt(id, jobs[id], max_interruptions, head, keep_done, keep_dead, ARGV[12])
    if how == 'again' then recovered[#recovered + 1] = id elseif how == 'dead' then died[#died + 1] = id end
  end
  released = released + #ids
  if released >= budget then break end -- the next step goes on with this worker
  if i <= #silent then expired_workers[#expired_workers + 1] = worker end
  forget_worker(worker)
end
count_more('total:recovered', #recovered)

local expiring = call('ZRANGEBYSCORE', EXPIRING, '-inf', wall, 'LIMIT', 0, budget)
load(expiring)
local expired = 0
for _, id in ipairs(expiring) do
  local job = jobs[id]
  zrem(EXPIRING, id)
  if job and job[STATE] == sWAITING and job[EXPIRES_AT] > 0 then
    if job[EXPIRES_AT] > wall then
      zadd(EXPIRING, job[EXPIRES_AT], id)
    else
      leave_waiting(id, job)
      expire(id, job, keep_done)
      expired = expired + 1
    end
  end
end
count_more('total:cancelled', expired)
flush()

local pruned, seen = G.past_or_over(done_max, budget)
local trimmed = {}
G.collect(trimmed, seen, G.overdue_in(DEAD_PURGE, '-inf', wall, budget))
local over = dead_max >= 0 and call('ZCARD', DEAD) - dead_max or 0
if over > 0 and #trimmed < budget then
  G.collect(trimmed, seen, G.ended_of(DEAD, call('ZRANGE', DEAD, 0, math.min(over, budget - #trimmed) - 1)))
end
local overdue = {}
if ARGV[13] == '1' then
  load(trimmed)
  table.sort(trimmed, function(a, b) return jobs[a] and jobs[b] and jobs[a][FINISHED] < jobs[b][FINISHED] end)
  for _, id in ipairs(trimmed) do
    if jobs[id] then
      overdue[#overdue + 1] = id
      overdue[#overdue + 1] = jobs[id][FENCE]
    end
  end
  trimmed = {}
end
forget(pruned, id_keep)
forget(trimmed, id_keep)
count_more('total:trimmed', #trimmed)

local tombs = call('ZRANGEBYSCORE', TOMBS, '-inf', wall, 'LIMIT', 0, budget)
for _, id in ipairs(tombs) do zrem(TOMBS, id) end
redis.pcall('ZREMRANGEBYSCORE', AWAITED, '-inf', wall)
-- Unique keys past their time, and Once markers whose key no record carries; others are looked at again in an hour.
local keys = call('ZRANGEBYSCORE', K.UNIQUE_EXPIRING, '-inf', wall, 'LIMIT', 0, budget)
for _, key in ipairs(keys) do
  call('HDEL', K.UNIQUE, key)
  call('ZREM', K.UNIQUE_EXPIRING, key)
end
for _, key in ipairs(call('ZRANGEBYSCORE', K.MARKERS, '-inf', wall, 'LIMIT', 0, budget)) do
  if G.count(K.CARRIERS, key) > 0 then
    call('ZADD', K.MARKERS, wall + 3600000, key)
  else
    call('HDEL', K.ONCE, key)
    call('ZREM', K.MARKERS, key)
  end
end

-- Logs of rates that have no claim in their window; tokens that nobody succeeded for an hour after their lease, and lines
-- in which nobody is left: of these each step looks at a slice.
local spent = call('ZRANGEBYSCORE', K.RATE_ENDS, '-inf', boot, 'LIMIT', 0, budget)
for _, gate in ipairs(spent) do
  call('HDEL', K.RATES, gate)
  call('ZREM', K.RATE_ENDS, gate)
end
local function slice(key, field)
  local from = string.match(call('HGET', META, field) or '0', '^%d%d?%d?%d?%d?%d?%d?%d?%d?$') or '0'
  local found = call('HSCAN', key, from, 'COUNT', 100)
  call('HSET', META, field, found[1])
  return found[2]
end
local held = slice(K.LOCKS, 'locks-cursor')
for i = 1, #held, 2 do
  local leases, kept = G.leases_in(held[i + 1]), {}
  for _, one in ipairs(leases) do
    if one[3] > boot - 3600000 then kept[#kept + 1] = one end
  end
  if #kept < #leases or #kept == 0 then G.keep_leases(G.gate_of_lease(held[i]), kept) end
end
local lines = slice(K.LINES, 'lines-cursor')
for i = 1, #lines, 2 do
  local waits = false
  local line = G.pairs_of(lines[i + 1])
  for j = 2, #line, 2 do waits = waits or line[j] > boot end
  if not waits then call('HDEL', K.LINES, lines[i]) end
end

G.take_over()
local folded = G.fold(cmsgpack.unpack(ARGV[14]), budget)
local looked, watched = G.look_at_joins(budget, keep_done)
folded = math.max(folded, looked)
flush()

G.forget_names(pauses)
flush()

local alone_at, due_at = G.earliest(LONE, kALONE, budget), G.earliest(DUES, kDUE, budget)
local most = math.max(promoted, released, #gone, expired, #pruned, #trimmed, #tombs, #spent, folded)
return {
  finish_marked(), promoted, expired_workers, recovered, died, #pruned, trimmed, overdue,
  alone_at and math.max(0, alone_at - wall) or -1, due_at and math.max(0, due_at - wall) or -1,
  most >= budget and 1 or 0, watched,
}
