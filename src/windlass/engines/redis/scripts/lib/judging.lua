-- Judging the guards of jobs inside a claim; see engines/sqlite/guards.py, whose rules these are.

local QUEUES_AT, QUEUES_LOOKED_AT = 64, 1024
local SLACK_MS, LATE_MS, GATES_MAX = 1000, 4, 64

G.meters, G.held, G.ends, G.holders, G.opens, G.let, G.visited, G.generous = {}, {}, {}, {}, {}, {}, {}, {}

function G.held_at(gate)
  if not G.held[gate] then G.held[gate], G.ends[gate] = G.taken(gate) end
  return G.held[gate]
end

function G.once_holder(gate)
  if not G.holders[gate] then
    local found = call('ZRANGEBYLEX', K.HOLDS, '[' .. gate .. '\0', '(' .. gate .. '\1', 'LIMIT', 0, 1)[1]
    G.holders[gate] = found and string.sub(found, #gate + 2)
  end
  return G.holders[gate]
end

-- A meter is the log of a rate during this claim: {at, total, ...}, or {spent, total} with a burst. What is reckoned with
-- it is as in core/ratewindow.py.
function G.meter(guard)
  local gate = guard[2]
  local m = G.meters[gate]
  if not m then
    local text = call('HGET', K.RATES, gate)
    m = { log = G.unpacked(text, 'n') or {}, given = 0 }
    if #m.log % 2 == 1 then m.log = {} end
    local n = #m.log
    m.last, m.total = m.log[n - 1] or boot, m.log[n] or 0
    m.now = guard[5] < 0 and math.max(boot, m.last) or boot
    G.meters[gate] = m
  end
  m.guard = guard
  return m
end

function G.total_before(m, at_most)
  local found = 0
  for i = 1, #m.log, 2 do
    if m.log[i] > at_most then break end
    found = m.log[i + 1]
  end
  return found
end

function G.room_of(m, slack)
  local limit, per, burst = m.guard[3], m.guard[4], m.guard[5]
  if burst >= 0 then
    local spacing = per / limit
    local ahead = m.total > 0 and math.max(m.last - (m.now - slack), 0) or 0
    return math.floor((burst * spacing - ahead + 1e-6) / spacing) - m.given
  end
  return limit - (m.total - G.total_before(m, m.now - per - G.late - slack)) - m.given
end

function G.meter_opens(m)
  local limit, per, burst = m.guard[3], m.guard[4], m.guard[5]
  if burst >= 0 then
    local spacing = per / limit
    local spent = math.max(m.last, m.now) + m.given * spacing
    return math.max(m.now + 1, math.ceil(spent - (burst - 1) * spacing))
  end
  local window, wanted = per + G.late, m.total + m.given - limit + 1
  if wanted > m.total then return m.now + window end
  for i = 1, #m.log, 2 do
    if m.log[i] > m.now - window and m.log[i + 1] >= wanted then return m.log[i] + window end
  end
  return m.now + 1
end

function G.write_meter(gate, m)
  if m.given == 0 then return end
  local limit, per, burst = m.guard[3], m.guard[4], m.guard[5]
  local log, over = {}, nil
  if burst >= 0 then
    log = { math.ceil(math.max(m.total > 0 and m.last or 0, m.now) + m.given * per / limit), m.total + m.given }
    over = log[1]
  else
    -- All but the newest that is out of every window goes; claims of one thousandth of the window share an entry, which
    -- bears the later time.
    local window = per + G.late + SLACK_MS
    local out = m.now - window
    over = m.now + window
    for i = 1, #m.log, 2 do
      if m.log[i] > out or (m.log[i + 2] or math.huge) > out then
        log[#log + 1] = m.log[i]
        log[#log + 1] = m.log[i + 1]
      end
    end
    local step, n = math.max(1, math.floor(per / 1000)), #log
    if n > 2 and math.floor(log[n - 1] / step) == math.floor(m.now / step) then
      log[n - 1], log[n] = m.now, m.total + m.given
    else
      log[n + 1], log[n + 2] = m.now, m.total + m.given
    end
  end
  call('HSET', K.RATES, gate, cmsgpack.pack(log))
  call('ZADD', K.RATE_ENDS, over, gate)
end

-- Why a job does not go on: nil when it does; else kind and what belongs to it.
function G.refuse(id, g, at_once)
  for _, guard in ipairs(g[1]) do
    local kind, gate = guard[1], guard[2]
    if kind == 'once' then
      local text = call('HGET', K.ONCE, g[2])
      if text then return 'done', G.unpacked(text, 'ssn') or { 'a job whose id was damaged', '' } end
      local holder = G.once_holder(gate)
      if holder and holder ~= id then return 'wait', gate end
    elseif G.KINDS[kind] == 'places' then
      if G.held_at(gate) >= guard[3] then return 'wait', gate, G.ends[gate] end
    elseif kind == 'rate' then
      local m = G.meter(guard)
      if G.room_of(m, 0) <= 0 then return 'wait', gate, G.meter_opens(m) end
      if not at_once and G.room_of(m, SLACK_MS) <= 0 then return 'later' end
    elseif kind == 'circuit' then
      local it = G.circuit(gate)
      if it.state ~= 'closed' then
        if G.probes_free(gate, it) <= 0 then return 'wait', gate, G.looks_again_at(gate, it) end
        if not at_once then return 'later' end
      end
    end
  end
end

function G.takes(id, g)
  for _, guard in ipairs(g[1]) do
    local kind, gate = guard[1], guard[2]
    if kind == 'rate' then
      local m = G.meter(guard)
      m.given = m.given + 1
    elseif kind ~= 'circuit' or G.circuit(gate).state ~= 'closed' then
      if kind == 'once' then G.holders[gate] = id else G.held[gate] = G.held_at(gate) + 1 end
      zadd(K.HOLDS, '0', gate .. '\0' .. id)
    end
  end
  if g[3][2] == 'start' then G.free_key(id, g) end
end

function G.guard_at(gate)
  local waiter = G.first_waiter(gate)
  local g = waiter and G.of(waiter)
  for _, guard in ipairs(g and g[1] or {}) do
    if guard[2] == gate then return guard, g end
  end
end

function G.free_at(guard, g)
  local kind, gate = guard[1], guard[2]
  if kind == 'once' then
    if call('HEXISTS', K.ONCE, g[2]) == 1 then return 1000000 end
    return G.once_holder(gate) and 0 or 1
  elseif G.KINDS[kind] == 'places' then
    return guard[3] - G.held_at(gate)
  elseif kind == 'rate' then
    return G.room_of(G.meter(guard), 0)
  end
  local it = G.circuit(gate)
  return it.state == 'closed' and G.lets_on(it) or G.probes_free(gate, it)
end

-- The queues in which jobs wait at a gate and that `serves` says may be claimed from, up to QUEUES_AT.
function G.queues_at(gate, serves)
  local found, from = {}, '[' .. gate .. '\0'
  for _ = 1, QUEUES_LOOKED_AT do
    if #found >= QUEUES_AT then break end
    local member = call('ZRANGEBYLEX', K.BLOCKED, from, '(' .. gate .. '\1', 'LIMIT', 0, 1)[1]
    if not member then break end
    local queue = string.match(member, '^.-%z(.-)%z')
    if not queue then break end -- no entry of ours
    if serves(queue) then found[#found + 1] = queue end
    from = '(' .. gate .. '\0' .. queue .. '\1'
  end
  return found
end

-- Queues that are open and in which jobs wait at gates that may have opened.
function G.queues_waiting()
  local open = {}
  local function serves(queue)
    if open[queue] == nil then open[queue] = G.is_open(call('HGET', QUEUES, queue)) end
    return open[queue]
  end
  local found, known = {}, {}
  for _, gate in ipairs(call('ZRANGEBYSCORE', K.GATES, '-inf', boot, 'LIMIT', 0, GATES_MAX)) do
    for _, queue in ipairs(G.queues_at(gate, serves)) do
      if not known[queue] then
        known[queue] = true
        found[#found + 1] = queue
      end
    end
  end
  return found
end

-- Put waiters of gates that may have opened back to their place, no more than may pass, of the lanes with room. `every`
-- says that the queues are all that may give something.
function G.let_on(queues, lanes, limit, every)
  local serves = {}
  for _, queue in ipairs(every and queues or {}) do serves[queue] = true end
  local function served(queue) return serves[queue] end
  local due = call('ZRANGE', K.GATES, 0, GATES_MAX - 1, 'WITHSCORES')
  for i = 1, #due, 2 do
    local gate, at_ms = due[i], tonumber(due[i + 1])
    if at_ms > boot then
      G.next_at = at_ms
      break
    end
    G.visited[#G.visited + 1] = gate
    local guard, g = G.guard_at(gate)
    local allowed = guard and G.free_at(guard, g) or 0
    local free = math.min(allowed, limit)
    if allowed > limit then G.generous[gate] = true end
    local found = {}
    for _, queue in ipairs(free > 0 and (every and G.queues_at(gate, served) or queues) or {}) do
      local prefix = gate .. '\0' .. queue .. '\0'
      local function edge(lane)
        return prefix .. (lane == 0 and '' or struct.pack('>I8', (lane - 0.5) * G.LANE + BIAS))
      end
      for _, lane in ipairs(lanes) do
        for _, member in ipairs(call('ZRANGEBYLEX', K.BLOCKED, '[' .. edge(lane), '(' .. edge(lane + 1), 'LIMIT', 0, free)) do
          local spot = string.sub(member, #prefix + 1)
          if #spot > 20 then
            local order = struct.pack('>I8', (struct.unpack('>I8', spot)) - lane * G.LANE) .. string.sub(spot, 9)
            found[#found + 1] = { order, queue, spot }
          end
        end
      end
    end
    table.sort(found, function(a, b) return a[1] < b[1] end)
    for j = 1, math.min(free, #found) do
      local spot, queue = found[j][3], found[j][2]
      local id = string.sub(spot, 21)
      load({ id })
      local job = jobs[id]
      if job then
        G.unblock(id, job, gate)
        call('ZADD', KEYS[at[queue] + kREADY], level(job), string.sub(spot, 9))
        G.let[id] = gate
      end
    end
  end
end

function G.note(gate, at_ms)
  call('ZADD', K.GATES, at_ms, gate)
  if at_ms > boot and (not G.next_at or at_ms < G.next_at) then G.next_at = at_ms end
end

-- After the claim; gives in how many ms the next gate opens by itself, or nil.
function G.close_gates(filled)
  for gate, m in pairs(G.meters) do G.write_meter(gate, m) end
  for id, gate in pairs(G.let) do
    local job = jobs[id]
    if job and job[STATE] == sWAITING and not G.gate_of(id) then
      call('ZREM', KEYS[at[job[INFO][QUEUE]] + kREADY], spot(id, job))
      G.block(id, job, gate)
    end
  end
  local more = false
  for _, gate in ipairs(G.visited) do
    local guard, g = G.guard_at(gate)
    local at_ms
    if guard then
      if guard[1] == 'rate' then
        local m = G.meter(guard)
        at_ms = G.room_of(m, 0) > 0 and boot or G.meter_opens(m)
      elseif guard[1] == 'circuit' then
        local it = G.circuit(gate)
        if it.state == 'closed' then
          -- The steps have grown beyond what one claim takes: the next claim may go on at once.
          at_ms = G.generous[gate] and boot or boot + STAGGER_MS
        else
          at_ms = G.probes_free(gate, it) > 0 and boot or G.looks_again_at(gate, it)
        end
      else
        at_ms = G.free_at(guard, g) > 0 and boot or G.ends[gate]
      end
    end
    if at_ms then
      G.note(gate, at_ms)
      more = more or at_ms <= boot
    else
      call('ZREM', K.GATES, gate)
    end
    G.opens[gate] = nil
  end
  for gate, at_ms in pairs(G.opens) do G.note(gate, at_ms) end
  if more and G.went_on and not filled then return 0 end
  return G.next_at and math.max(1, G.next_at - boot + LATE_MS)
end
