-- Common ground of every script: keys, time, and writes that go out in batches.
--
-- KEYS   those of the fixed keys of the namespace that the script names (META, BODY and so on are declared before
--        this text, by scripts.py; those of guards in K). Those of a queue are made here when it is met, so a call costs
--        what the queues it touches cost: all keys of a namespace bear one hash tag, so they are in one slot.
-- ARGV   1 clock ("" for the server's, or "wall:boot" in ms)  2 queues that arguments name by number (msgpack array)
--        3 what every key begins with  4... belong to the operation
--
-- What queues have is found by three indexes of queues, not by asking each: BUSY has those with ready jobs, DUES and LONE
-- those with scheduled and lone ones at the earliest of their times. An entry may be left behind (that is found when it
-- is looked at) and is never missing.
--
-- Writes are collected and sent by `flush`, removals first: so the first write is one that a full server allows, and a
-- job that was accepted once can be claimed and settled in a full server too.
--
-- Redis undoes nothing of a script that fails. So no key is written before it is known that each has the type it should:
-- LOOK_AT_TYPES does it for the fixed keys, `flush` for those of queues. What only tells or counts goes through `pcall`.

local G = { known = {}, ran = {} } -- what scripts share about guards: in a table, since a script has room for 200 locals
local OF_QUEUE = { 'ready:', 'due:', 'alone:', 'done:', 'cancelled:', 'wake:', 'wake-loop:' }
local kREADY, kDUE, kALONE, kDONE, kCANCELLED, kWAKE, kWAKE_LOOP = 1, 2, 3, 4, 5, 6, 7

local BIAS = 1e13 -- makes every place positive, so that its bytes sort as it does
local PLACE_MAX = 2 ^ 48 - 1
G.NUMBER_MAX = 2 ^ 53 - 2 ^ 40 -- fences and counters stay below, with room to count on
local STEP_MS = 10000 -- of the counts in FLOW
local CHUNK = 4000 -- even; unpack() takes no more than 8,000 values

local call = redis.call

-- The kind of slot that a job runs in is its lane: 1 thread, 2 event loop, 0 when nobody knows. A level bears it, LANE
-- for each number, so that each lane is a stretch of a queue's ready jobs with an order of its own.
G.LANE = 2 ^ 51
function G.lane(level) return math.max(0, math.min(2, math.floor(level / G.LANE + 0.5))) end

-- Ended jobs of a queue are in order of when their record may go. Those that are kept longer than all are stand behind all
-- others, KEPT further on: so the first ones are those that a count may trim.
G.KEPT = 2 ^ 51

-- Where a time stands in the order of a queue, as six bytes can hold it.
local function place_at(time)
  return math.max(0, math.min(time + BIAS, PLACE_MAX))
end

local function tail(list, from)
  local rest = {}
  for i = from, #list do rest[#rest + 1] = list[i] end
  return rest
end

-- What others have packed, of the kinds of values that `kinds` names by their first letters ("sn": a string, a number,
-- ...; the last letter stands for all that follow); nil for bytes that are not that. Nothing that is stored is trusted:
-- a script that stops half-way has half happened.
function G.unpacked(text, kinds)
  if not text then return nil end
  local good, found = pcall(cmsgpack.unpack, text)
  if not good or type(found) ~= 'table' then return nil end
  for i = 1, math.max(#found, #kinds) do
    local kind = string.sub(kinds, math.min(i, #kinds), math.min(i, #kinds))
    if kind ~= '*' and string.sub(type(found[i]), 1, 1) ~= kind then return nil end
    if kind == 'n' and not G.is_number(found[i]) then return nil end
  end
  return found
end

-- A list of strings and numbers in turn; empty for bytes that are no such list.
function G.pairs_of(text)
  local found = G.unpacked(text, '*') or {}
  for i = 1, #found, 2 do
    if type(found[i]) ~= 'string' or not G.is_number(found[i + 1]) then return {} end
  end
  return found
end

function G.is_number(value)
  return type(value) == 'number' and value > -2 ^ 53 and value < 2 ^ 53
end

-- A whole number that a field of META bears, if it is there and can be one; 0 otherwise.
function G.number(field)
  local found = tonumber(call('HGET', META, field) or nil)
  return found and found >= 0 and found < G.NUMBER_MAX and math.floor(found) or 0
end

-- Raise a counter and give it. What is no number begins anew, above `least`; a full server refuses it as any first write.
function G.raise(key, field, by, least)
  local found = redis.pcall('HINCRBY', key, field, by)
  if type(found) == 'table' then
    if not string.find(found.err, 'not an integer') and not string.find(found.err, 'overflow') then error(found.err) end
  elseif found >= by and found < G.NUMBER_MAX then
    return found
  end
  found = (least and least() or 0) + by
  call('HSET', key, field, string.format('%.0f', found))
  return found
end

local wall, boot, micros
if ARGV[1] == '' then
  local t = call('TIME')
  micros = t[1] * 1000000 + t[2]
  wall = math.floor(micros / 1000)
  boot = wall
else
  local w, b = string.match(ARGV[1], '^(%-?%d+):(%-?%d+)$')
  wall, boot = tonumber(w), tonumber(b)
  micros = wall * 1000
end

local names = cmsgpack.unpack(ARGV[2])
-- queue name -> the number of the key before its seven
local at = setmetatable({}, {
  __index = function(known, queue)
    local base = #KEYS
    for i, kind in ipairs(OF_QUEUE) do KEYS[base + i] = ARGV[3] .. kind .. queue end
    known[queue] = base
    return base
  end,
})

local function mget(key, fields)
  local n = #fields
  if n == 0 then return {} end
  if n <= CHUNK then return call('HMGET', key, unpack(fields)) end
  local found = {}
  for i = 1, n, CHUNK do
    for j, value in ipairs(call('HMGET', key, unpack(fields, i, math.min(i + CHUNK - 1, n)))) do
      found[i + j - 1] = value
    end
  end
  return found
end

-- The types of keys, before any write. ---------------------------------------------------------------

LOOK_AT_TYPES -- the fixed keys, one by one (scripts.py)
local sure = SORTED_SETS -- keys that are of the right type

-- Of a queue's key, all of which are sorted sets but for those that wake.
function G.sound(key)
  if not sure[key] then
    call('ZCARD', key)
    sure[key] = true
  end
end

-- Writes, collected. -------------------------------------------------------------------------------

local zrems, hdels, zadds, hsets = {}, {}, {}, {}
local totals = {}
local busy, soonest, lone = {}, {}, {} -- queues that got ready jobs; queue -> earliest time of new scheduled, lone ones
G.woken = { {}, {} } -- queues in which something became ready: for threads or an unknown lane, for the event loop
local ended = {} -- ids that finished or went
local jobs = {} -- id -> record, as this script has left it; false when it is gone

-- Jobs whose record is not sound, and why: noted, and made dead by the next step of upkeep (mend.lua). Nobody claims them.
G.damaged = {}
function G.note_damage(id, why)
  G.damaged[id] = why
end

local function into(lists, key)
  local list = lists[key]
  if not list then
    list = {}
    lists[key] = list
  end
  return list
end

local function zrem(key, member)
  local list = into(zrems, key)
  list[#list + 1] = member
end

local function hdel(key, field)
  local list = into(hdels, key)
  list[#list + 1] = field
end

local function zadd(key, score, member)
  local list = into(zadds, key)
  local n = #list
  list[n + 1] = score
  list[n + 2] = member
end

local function hset(key, field, value)
  local list = into(hsets, key)
  local n = #list
  list[n + 1] = field
  list[n + 2] = value
end

local function send(command, lists)
  for key, list in pairs(lists) do
    local n = #list
    for i = 1, n, CHUNK do call(command, key, unpack(list, i, math.min(i + CHUNK - 1, n))) end
  end
end

local flow = {} -- field of FLOW -> how many more
-- What: "a" for jobs that arrived, "c" for jobs that were claimed.
local function count_flow(what, queue, count)
  local field = string.format('%s%.0f:%s', what, math.floor(wall / STEP_MS), queue)
  flow[field] = (flow[field] or 0) + count
end

local function total(name, count)
  totals[name] = (totals[name] or 0) + count
end

-- From here on a full server lets this script grow: it refuses only the first write of a script.
local function allow_growth()
  call('HDEL', META, '')
end

-- Wake a worker for a job of a lane, or one for each kind.
function G.rouse(queue, lane)
  if lane ~= 2 then G.woken[1][queue] = true end
  if lane == 2 or not lane then G.woken[2][queue] = true end
end

-- Whether a queue may be claimed from, by what QUEUES has of it.
function G.is_open(pause)
  local until_ms = pause and tonumber(string.match(pause, '^(%d+)|') or '')
  return not until_ms or (until_ms > 0 and until_ms <= wall) -- what is no pause is none
end

-- A queue has work: it is known by name from now on.
local function register(queue)
  if call('HSETNX', QUEUES, queue, '') == 1 then G.rouse(queue) end
  call('HDEL', IDLE, queue)
end

-- Before the first write: what is collected so far can be sent.
function G.sound_all()
  for key in pairs(zrems) do G.sound(key) end
  for key in pairs(zadds) do G.sound(key) end
end

local function flush()
  G.sound_all()
  for queue, run_at in pairs(soonest) do
    local head = call('ZRANGE', KEYS[at[queue] + kDUE], 0, 0, 'WITHSCORES')
    if not head[2] or tonumber(head[2]) > run_at then G.rouse(queue) end
  end
  send('ZREM', zrems)
  send('HDEL', hdels)
  send('ZADD', zadds)
  send('HSET', hsets)
  for queue in pairs(busy) do
    register(queue)
    call('ZADD', BUSY, 0, queue)
  end
  for key, times in pairs({ [DUES] = soonest, [LONE] = lone }) do
    for queue, run_at in pairs(times) do
      if not busy[queue] then register(queue) end
      call('ZADD', key, 'LT', run_at, queue)
    end
  end
  zrems, hdels, zadds, hsets, busy, soonest, lone = {}, {}, {}, {}, {}, {}, {}
end

-- One token wakes one idle worker. A list holds one token at most, so it does not grow when nobody listens.
local function wake(key)
  if redis.pcall('LLEN', key) == 0 then redis.pcall('RPUSH', key, '1') end
end

local function zscores(key, members)
  local found = {}
  for i = 1, #members, CHUNK do
    local n = math.min(i + CHUNK - 1, #members)
    for j, score in ipairs(call('ZMSCORE', key, unpack(members, i, n))) do found[i + j - 1] = score end
  end
  return found
end

-- Send everything, and tell those who wait.
local function finish_script()
  flush()
  for name, count in pairs(totals) do
    if count ~= 0 then pcall(G.raise, TOTALS, name, count) end
  end
  for field, count in pairs(flow) do pcall(G.raise, FLOW, field, count) end
  for id, why in pairs(G.damaged) do call('HSET', DAMAGED, id, why) end
  -- Who serves named queues waits at their lists, who serves any at those of all.
  for i, key in ipairs({ kWAKE, kWAKE_LOOP }) do
    for queue in pairs(G.woken[i]) do wake(KEYS[at[queue] + key]) end
    if next(G.woken[i]) then wake(i == 1 and WAKE or WAKE_LOOP) end
  end
  local asked = #ended > 0 and redis.pcall('ZCARD', AWAITED)
  if type(asked) == 'number' and asked > 0 then
    for i, score in ipairs(zscores(AWAITED, ended)) do
      if score then
        redis.pcall('PUBLISH', AWAITED, ended[i])
        call('ZREM', AWAITED, ended[i])
      end
    end
  end
end

-- As finish_script; gives the mark: a number that only grows while the store keeps its writes. -1 when it is none.
local function finish_marked()
  finish_script()
  local good, mark = pcall(G.raise, META, 'mark', 1)
  return good and mark or -1
end
