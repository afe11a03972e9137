-- uses: records guards
-- Let so many jobs of a queue run at once, or be claimed in a window.
--
-- KEYS     fixed
-- ARGV     4 queue  5 "limit" or "rate"  6 limit or -1, or count of the rate or 0  7 window in ms
-- Returns  mark
-- Cost     O(1)

allow_growth()
local queue, number = ARGV[4], tonumber(ARGV[6])
local text = call('HGET', K.BOUNDS, queue)
local bound = G.unpacked(text, 'n')
if not bound or #bound ~= 3 then bound = { -1, 0, 0 } end
if ARGV[5] == 'limit' then
  bound[1] = number
elseif bound[2] ~= number or bound[3] ~= tonumber(ARGV[7]) then
  bound[2], bound[3] = number, tonumber(ARGV[7])
  call('HDEL', K.RATES, 'queue:' .. queue) -- a new one begins with an empty window
  call('ZREM', K.RATE_ENDS, 'queue:' .. queue)
end
if bound[1] < 0 and bound[2] == 0 then
  call('HDEL', K.BOUNDS, queue)
else
  call('HSET', K.BOUNDS, queue, cmsgpack.pack(bound))
end
call('HSETNX', QUEUES, queue, '')
hdel(IDLE, queue)
G.rouse(queue)
return { finish_marked() }
