-- Common ground of every script: keys, time, counters, and telling workers. It is all that one plain job needs.
--
-- KEYS   those of the fixed keys of the namespace that the script names (scripts.py puts their places where META, BODY
--        and so on stand; those of guards are fields of K). Those of a queue are made here when it is met, so a call costs
--        what the queues it touches cost: all keys of a namespace bear one hash tag, so they are in one slot.
-- ARGV   1 clock ("" for the server's, or "wall:boot" in ms)  2 queues that arguments name by number (msgpack array)
--        3 what every key begins with  4... belong to the operation
--
-- What queues have is found by three indexes of queues, not by asking each: BUSY has those with ready jobs, DUES and LONE
-- those with scheduled and lone ones at the earliest of their times. An entry may be left behind (that is found when it
-- is looked at) and is never missing.

local G = {} -- what scripts share: in a table, since a script has room for 200 locals, and each makes functions dearer
G.OF_QUEUE = { 'ready:', 'due:', 'alone:', 'done:', 'cancelled:', 'wake:', 'wake-loop:' }
local kREADY, kDUE, kALONE, kDONE, kCANCELLED, kWAKE, kWAKE_LOOP = 1, 2, 3, 4, 5, 6, 7

local BIAS = 1e13 -- makes every place positive, so that its bytes sort as it does
local PLACE_MAX = 2 ^ 48 - 1
G.NUMBER_MAX = 2 ^ 53 - 2 ^ 40 -- fences and counters stay below, with room to count on

local call = redis.call
local names = cmsgpack.unpack(ARGV[2])

-- The kind of slot that a job runs in is its lane: 1 thread, 2 event loop, 0 when nobody knows. A level bears it, LANE
-- for each number, so that each lane is a stretch of a queue's ready jobs with an order of its own.
G.LANE = 2 ^ 51
function G.lane(level) return math.max(0, math.min(2, math.floor(level / G.LANE + 0.5))) end

-- Where a time stands in the order of a queue, as six bytes can hold it.
local function place_at(time)
  return math.max(0, math.min(time + BIAS, PLACE_MAX))
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

-- A key of a queue, by its kind.
function G.key(kind, queue)
  return ARGV[3] .. G.OF_QUEUE[kind] .. queue
end

-- What the fields of COUNTS for a time begin with; the series follows.
function G.minute_of(time)
  return string.format('%.0f:', math.floor(time / 60000))
end

G.woken = { {}, {} } -- queues in which something became ready: for threads or an unknown lane, for the event loop
-- Wake a worker for a job of a lane, or one for each kind.
function G.rouse(queue, lane)
  if lane ~= 2 then G.woken[1][queue] = true end
  if lane == 2 or not lane then G.woken[2][queue] = true end
end

-- A queue has work: it is known by name from now on.
local function register(queue)
  if call('HSETNX', QUEUES, queue, '') == 1 then G.rouse(queue) end
  call('HDEL', IDLE, queue)
end

-- A queue has ready jobs.
function G.register_ready(queue)
  register(queue)
  call('ZADD', BUSY, 0, queue)
end

-- One token wakes one idle worker. A list holds one token at most, so it does not grow when nobody listens.
local function wake(key)
  if redis.pcall('LLEN', key) == 0 then redis.pcall('RPUSH', key, '1') end
end

-- Who serves named queues waits at their lists, who serves any at those of all.
function G.tell_workers()
  for i, key in ipairs({ kWAKE, kWAKE_LOOP }) do
    for queue in pairs(G.woken[i]) do wake(G.key(key, queue)) end
    if next(G.woken[i]) then wake(i == 1 and WAKE or WAKE_LOOP) end
  end
end
