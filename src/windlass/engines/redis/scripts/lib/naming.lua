-- Names of queues. Upkeep looks at a slice of them in each step; the place where the next one begins is in META.

G.QUEUES_A_STEP = 200 -- looked at for records to prune and names to forget
G.NAME_KEPT_MS = 3600000
G.BLOCKED_LOOK = 1000 -- queues at gates; with more, no name is forgotten for now

-- The queues that have blocked jobs; nothing when there are too many to tell.
function G.queues_blocked(most)
  local found, from = {}, '-'
  for _ = 1, most do
    local member = call('ZRANGEBYLEX', K.BLOCKED, from, '+', 'LIMIT', 0, 1)[1]
    if not member then return found end
    local gate, queue = string.match(member, '^(.-)%z(.-)%z')
    if not gate then return nil end -- no entry of ours: until it is gone nobody can tell
    found[queue] = true
    from = '(' .. gate .. '\0' .. queue .. '\1'
  end
end

-- The names of the next slice become `names`; gives the pause of each.
function G.some_queues()
  local before = string.match(call('HGET', META, 'queues-cursor') or '0', '^%d%d?%d?%d?%d?%d?%d?%d?%d?%d?$') or '0'
  local found = call('HSCAN', QUEUES, before, 'COUNT', G.QUEUES_A_STEP)
  if found[1] ~= before then call('HSET', META, 'queues-cursor', found[1]) end
  local pauses = {}
  names = {}
  for i = 1, #found[2], 2 do
    names[#names + 1] = found[2][i]
    pauses[found[2][i]] = found[2][i + 1]
  end
  return pauses
end

-- Names of queues that nobody has used for an hour are forgotten: those without a job that waits, runs or is kept as
-- done or cancelled, without a pause and without a bound.
function G.forget_names(pauses)
  local idle_since = mget(IDLE, names)
  local forgettable = {}
  for i, queue in ipairs(names) do
    local base = at[queue]
    local has = call('EXISTS', KEYS[base + kREADY], KEYS[base + kDUE], KEYS[base + kALONE], KEYS[base + kDONE],
      KEYS[base + kCANCELLED]) > 0
    if has then
      if idle_since[i] then hdel(IDLE, queue) end
      -- The indexes of queues put right, where a lost write or an older version left something out.
      if call('EXISTS', KEYS[base + kREADY]) == 1 then call('ZADD', BUSY, 0, queue) end
      for kind, index in pairs({ [kDUE] = DUES, [kALONE] = LONE }) do
        local head = call('ZRANGE', KEYS[base + kind], 0, 0, 'WITHSCORES')[2]
        if head then call('ZADD', index, 'LT', head, queue) end
      end
    elseif not G.is_open(pauses[queue]) or call('HEXISTS', K.BOUNDS, queue) == 1 then
      if idle_since[i] then hdel(IDLE, queue) end
    elseif not idle_since[i] then
      hset(IDLE, queue, text_of(wall))
    elseif (tonumber(idle_since[i]) or 0) <= wall - G.NAME_KEPT_MS then
      forgettable[#forgettable + 1] = queue
    end
  end
  if #forgettable > 0 then
    local running = running_by_queue()
    local blocked = G.queues_blocked(G.BLOCKED_LOOK)
    for _, queue in ipairs(forgettable) do
      hdel(IDLE, queue)
      if blocked and not running[queue] and not blocked[queue] then
        local base = at[queue]
        hdel(QUEUES, queue)
        hdel(K.STARVED, queue)
        for _, index in ipairs({ BUSY, DUES, LONE }) do zrem(index, queue) end
        call('DEL', KEYS[base + kWAKE], KEYS[base + kWAKE_LOOP])
      end
    end
  end
end

-- The earliest time in an index of queues; entries that were left behind are put right.
function G.earliest(index, kind, budget)
  local head
  for _ = 1, budget do
    head = call('ZRANGE', index, 0, 0, 'WITHSCORES')
    if not head[2] then return end
    local first = redis.pcall('ZRANGE', KEYS[at[head[1]] + kind], 0, 0, 'WITHSCORES')[2]
    if first == head[2] then break end
    if first then call('ZADD', index, first, head[1]) else call('ZREM', index, head[1]) end
  end
  return tonumber(head[2])
end
