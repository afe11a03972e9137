-- What queues are held to inside a claim; see engines/sqlite/bounds.py, whose rules these are.
--
-- BOUNDS    queue -> {limit or -1, count of the rate or 0, its window in ms}, msgpack
-- STARVED   queues in which a claim left jobs behind because they were full

function G.bound_meter(queue, count, per)
  return G.meter({ 'rate', 'queue:' .. queue, count, per, -1, 0 })
end

function G.bound_in(text)
  local bound = G.unpacked(text, 'n')
  return bound and #bound == 3 and (bound[2] <= 0 or bound[3] > 0) and bound or nil
end

-- The bounds of queues: the store's own, else those given as {name, limit or -1, count or 0, window, ...}.
function G.bounds_of(queues, given)
  local others, found = {}, {}
  for i = 1, #given, 4 do others[given[i]] = { given[i + 1], given[i + 2], given[i + 3] } end
  for i, text in ipairs(mget(K.BOUNDS, queues)) do
    local own, other = G.bound_in(text) or { -1, 0, 0 }, others[queues[i]] or { -1, 0, 0 }
    local limit = own[1] >= 0 and own[1] or other[1]
    local rate = own[2] > 0 and own or other
    if limit >= 0 or rate[2] > 0 then found[queues[i]] = { limit, rate[2], rate[3] } end
  end
  return found
end

-- Begin, or go on with more queues: what each of them may still give. They are counted only where a limit may bind.
function G.bind(queues, given, wanted)
  G.left, G.paced = G.left or {}, G.paced or {}
  G.bound = next(given) ~= nil or call('HLEN', K.BOUNDS) > 0
  if not G.bound then return end
  local most, running = call('ZCARD', RUNNING), nil
  for queue, bound in pairs(G.bounds_of(queues, given)) do
    if bound[1] >= 0 then
      if most + wanted > bound[1] then running = running or running_by_queue() end
      G.left[queue] = bound[1] - (running and (running[queue] or 0) or most)
    end
    if bound[2] > 0 then G.paced[queue] = G.bound_meter(queue, bound[2], bound[3]) end
  end
end

-- How many more jobs of a queue may be leased.
function G.room(queue)
  local left, meter = G.left[queue] or math.huge, G.paced[queue]
  return meter and math.min(left, G.room_of(meter, 0)) or left
end

-- Whether one more may be leased; `at_once` says that it has a free slot to start in.
function G.lets_through(queue, at_once)
  if G.room(queue) <= 0 then return false end
  local meter = G.paced[queue]
  return not meter or at_once or G.room_of(meter, SLACK_MS) > 0
end

function G.take(queue)
  if G.left[queue] then G.left[queue] = G.left[queue] - 1 end
  if G.paced[queue] then G.paced[queue].given = G.paced[queue].given + 1 end
end

-- End: note the queues that are full and have jobs waiting, so that the end of one wakes a worker, and wake nobody for
-- them now; gives in how many ms the next rate has room for a job that waits. Meters are written with those of guards.
function G.unbind()
  local function waits(queue)
    if call('ZCARD', KEYS[at[queue] + kREADY]) > 0 or call('ZCOUNT', KEYS[at[queue] + kALONE], '-inf', wall) > 0 then
      return true
    end
    for _, gate in ipairs(call('ZRANGEBYSCORE', K.GATES, '-inf', boot, 'LIMIT', 0, 64)) do
      if G.count(K.BLOCKED, gate .. '\0' .. queue) > 0 then return true end
    end
    return false
  end
  local function sleep_on(queue) G.woken[1][queue], G.woken[2][queue] = nil, nil end
  local next_at
  for queue, meter in pairs(G.paced) do
    if G.room_of(meter, 0) <= 0 and (G.left[queue] or 1) > 0 and waits(queue) then
      next_at = math.min(next_at or math.huge, G.meter_opens(meter))
      sleep_on(queue)
    end
  end
  for queue, left in pairs(G.left) do
    if left <= 0 and waits(queue) then
      call('HSET', K.STARVED, queue, '')
      sleep_on(queue)
    else
      call('HDEL', K.STARVED, queue)
    end
  end
  return next_at and math.max(1, next_at - boot + LATE_MS)
end
