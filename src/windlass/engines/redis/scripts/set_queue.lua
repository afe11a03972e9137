-- Set what holds for a queue from now on: its pause, how many of its jobs run at once, how many are claimed in a window.
--
-- KEYS     fixed
-- ARGV     4 queue  5 what is given: letters of "plr"  6 pause: "until|who|reason", until being wall-clock ms or 0 for no
--          end; "" to lift it  7 limit or -1  8 count of the rate or 0  9 its window in ms
-- Returns  mark
-- Cost     O(1)

allow_growth()
local queue, pause, limit, count, per_ms = ARGV[4], ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local function given(letter) return string.find(ARGV[5], letter, 1, true) ~= nil end

local bound = G.unpacked(call('HGET', K.BOUNDS, queue), 'n')
if not bound or #bound ~= 3 then bound = { -1, 0, 0 } end
if given('l') then bound[1] = limit end
if given('r') and (bound[2] ~= count or bound[3] ~= per_ms) then
  bound[2], bound[3] = count, per_ms
  call('HDEL', K.RATES, 'queue:' .. queue) -- a new one begins with an empty window
  call('ZREM', K.RATE_ENDS, 'queue:' .. queue)
end
if bound[1] < 0 and bound[2] == 0 then
  call('HDEL', K.BOUNDS, queue)
else
  call('HSET', K.BOUNDS, queue, cmsgpack.pack(bound))
end

local holds = pause ~= '' or limit >= 0 or count > 0
if holds or call('HEXISTS', QUEUES, queue) == 1 then -- lifting makes no name
  if given('p') then hset(QUEUES, queue, pause) else call('HSETNX', QUEUES, queue, '') end
  if holds then hdel(IDLE, queue) end
  G.rouse(queue)
end
return { finish_marked() }
