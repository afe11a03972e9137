-- uses: records guards running leases document circuits judging bounding
-- Every queue as it stands.
--
-- KEYS     fixed
-- ARGV     4 bounds that hold where the store has none: name, limit or -1, count or 0, window, ... (msgpack array)
-- Returns  wall-clock ms, {name, ready, scheduled, running, latency in ms, pause, limit or -1,
--          count of the rate or 0, its window in ms, claims in it, held, ...}; held ones are not among the running
-- Cost     O(queues + running)

G.late = 0
names = call('HKEYS', QUEUES)
local running, held = running_by_queue()
local bounds = G.bounds_of(names, cmsgpack.unpack(ARGV[4]))

local reply = {}
for i, pause in ipairs(mget(QUEUES, names)) do
  local queue = names[i]
  local ready, due, alone = KEYS[at[queue] + kREADY], KEYS[at[queue] + kDUE], KEYS[at[queue] + kALONE]
  local came = call('ZCOUNT', due, '-inf', wall) + call('ZCOUNT', alone, '-inf', wall)
  local since = wall
  for _, key in ipairs({ due, alone }) do
    local head = call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]
    if head then since = math.min(since, tonumber(head)) end
  end
  for lane = 0, 2 do
    local first = call('ZRANGEBYSCORE', ready, G.lane_from(lane), G.lane_to(lane), 'LIMIT', 0, 1)[1]
    if first then
      local id = string.sub(first, 13)
      load({ id })
      if jobs[id] then since = math.min(since, jobs[id][RUN_AT]) end
    end
  end
  local n = #reply
  reply[n + 1] = queue
  reply[n + 2] = call('ZCARD', ready) + came
  reply[n + 3] = call('ZCARD', due) + call('ZCARD', alone) - came
  reply[n + 4] = (running[queue] or 0) - (held[queue] or 0)
  reply[n + 5] = wall - since
  reply[n + 6] = pause or ''
  local bound = bounds[queue] or { -1, 0, 0 }
  reply[n + 7] = bound[1]
  reply[n + 8] = bound[2]
  reply[n + 9] = bound[3]
  reply[n + 11] = held[queue] or 0
  reply[n + 10] = bound[2] > 0 and bound[2] - G.room_of(G.bound_meter(queue, bound[2], bound[3]), 0) or 0
end
return { wall, reply }
