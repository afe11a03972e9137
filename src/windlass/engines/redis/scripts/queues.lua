-- uses: records guards
-- Every queue as it stands.
--
-- KEYS     fixed; every queue
-- ARGV     none
-- Returns  wall-clock ms, {name, ready, scheduled, running, latency in ms, pause, ...}
-- Cost     O(queues + running)

local running = {}
local from = '-'
while true do
  local held = call('ZRANGEBYLEX', RUNNING, from, '+', 'LIMIT', 0, CHUNK)
  if #held == 0 then break end
  local ids = {}
  for i, member in ipairs(held) do ids[i] = string.match(member, '%z(.*)$') end
  for _, record in ipairs(mget(REC, ids)) do
    if record then
      local queue = read(record)[INFO][QUEUE]
      running[queue] = (running[queue] or 0) + 1
    end
  end
  from = '(' .. held[#held]
end

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
  local first = call('ZRANGE', ready, 0, 0)[1]
  if first then
    local id = string.sub(first, 13)
    load({ id })
    if jobs[id] then since = math.min(since, jobs[id][RUN_AT]) end
  end
  local n = #reply
  reply[n + 1] = queue
  reply[n + 2] = call('ZCARD', ready) + came
  reply[n + 3] = call('ZCARD', due) + call('ZCARD', alone) - came
  reply[n + 4] = running[queue] or 0
  reply[n + 5] = wall - since
  reply[n + 6] = pause or ''
end
return { wall, reply }
