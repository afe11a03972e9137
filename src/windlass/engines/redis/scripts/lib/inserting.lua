-- Storing jobs: insert if absent by id. Each job is four texts: id, body without its times and place, a spec, and its
-- guards (lib/guards.lua) or "".
-- A spec is "queue number|priority|due|front|expires|caller id", due being "+delay" or an absolute time; most jobs of a
-- batch share one, so it is taken apart once.

local specs = {}

local function spec_of(text)
  local spec = specs[text]
  if spec then return spec end
  local number, priority, sign, due, front, expires, caller =
    string.match(text, '^(%d+)|(%-?%d+)|([+=])(%-?%d+)|(%d)|(%-?%d+)|(%d)$')
  local queue = names[tonumber(number)]
  local run_at = math.max(0, sign == '+' and wall + tonumber(due) or tonumber(due))
  local place = front == '1' and -wall or run_at
  local base = at[queue]
  expires = tonumber(expires)
  spec = {
    queue = queue,
    ready = run_at <= wall,
    list = into(zadds, KEYS[base + (run_at <= wall and kREADY or kDUE)]),
    score = run_at <= wall and priority or run_at,
    prefix = run_at <= wall and '' or struct.pack('>i8', tonumber(priority)),
    times = struct.pack('>I6I6', wall, run_at),
    place = struct.pack('>I6', place + BIAS),
    run_at = run_at,
    expires_at = expires >= 0 and run_at + expires or nil,
    caller = caller == '1',
  }
  call('ZCARD', KEYS[base + (run_at <= wall and kREADY or kDUE)]) -- another type must show before the first write
  specs[text] = spec
  return spec
end

-- What becomes of a job whose unique key another has, before anything is written. Gives the answer, and the id of the
-- job that is to be written over, or of the holder that it waits behind.
local function conflict(id, g, u, claims)
  local rule, holder, behind = g[3][4], u[1], u[2]
  if rule == 'return' then return holder end
  if rule == 'raise' then return 'raise', holder end
  if rule == 'keep_latest' and behind ~= '' then return behind, behind end
  load({ holder })
  local fresh, job = claims[holder], jobs[holder]
  if fresh or (job and job[STATE] == sWAITING) then return holder, holder end
  if rule == 'keep_latest' and job and job[STATE] == sRUNNING then return '', holder end
  return holder
end

-- Forget Once markers whose time is over and whose key no record carries.
local function forget_marker(key)
  local text = call('HGET', K.ONCE, key)
  if text and cmsgpack.unpack(text)[3] <= wall and G.count(K.CARRIERS, key) == 0 then
    call('HDEL', K.ONCE, key)
    call('ZREM', K.MARKERS, key)
  end
end

-- Write a new job over a waiting one, which keeps its id and its arrival.
local function replace(id, list, i, g)
  local spec = specs[list[i + 2]]
  local body = call('HGET', BODY, id)
  jobs[id] = nil
  load({ id })
  local job = body and jobs[id]
  if not job then return end
  local gate, before = G.gate_of(id), G.of(id)
  leave_waiting(id, job)
  for _, guard in ipairs(before and before[1] or {}) do G.free(id, guard[2]) end
  if before and before[2] ~= '' then call('ZREM', K.CARRIERS, before[2] .. '\0' .. id) end
  call('HDEL', REC, id)
  call('HSET', BODY, id, string.sub(body, 1, 6) .. string.sub(spec.times, 7) .. list[i + 1] .. spec.place
    .. struct.pack('>I6', job[SEQ]))
  call('HSET', K.GUARDS, id, list[i + 3])
  G.any, G.known[id], jobs[id] = true, g, nil
  if g[2] ~= '' then
    forget_marker(g[2])
    call('ZADD', K.CARRIERS, 0, g[2] .. '\0' .. id)
  end
  load({ id })
  job = jobs[id]
  local key = g[3][1]
  if gate == 'unique:' .. key then
    G.block(id, job, gate)
    if job[EXPIRES_AT] > 0 then zadd(EXPIRING, job[EXPIRES_AT], id) end
    return
  end
  local u = G.holder(key)
  if u and g[3][3] >= 0 then
    u[4] = spec.run_at + g[3][3]
    G.hold_key(key, u)
  end
  wait_again(id, job)
end

-- list[from...]: id, body, spec, guards, ... Gives one "0" (stored) or "1" (duplicate) for each, how many jobs were ever
-- stored, {place, id of the job that has the key, ...}, and the id of a holder when a rule says raise: nothing is
-- written then. With `lenient` such a job is a duplicate.
local function insert(list, from, lenient)
  local ids, chosen = {}, {}
  local n = 0
  for i = from, #list, 4 do
    n = n + 1
    ids[n] = list[i]
    if (specs[list[i + 2]] or spec_of(list[i + 2])).caller then chosen[#chosen + 1] = ids[n] end
  end
  local known = mget(BODY, ids)
  call('ZCARD', ARRIVALS)
  local new = {}
  for _, spec in pairs(specs) do
    if call('HEXISTS', QUEUES, spec.queue) == 0 then new[spec.queue] = true end
  end
  local buried = {}
  for i, until_ms in ipairs(zscores(TOMBS, chosen)) do
    if until_ms and tonumber(until_ms) > wall then buried[chosen[i]] = true end
  end
  local answers, taken, count, others = {}, {}, 0, {}
  local guards, keys, over, behind, claims = {}, {}, {}, {}, {}
  for i = 1, n do
    local id, text = ids[i], list[from + 4 * i - 1]
    if known[i] or taken[id] or buried[id] or jobs[id] then
      answers[i] = '1'
    else
      local g = text ~= '' and cmsgpack.unpack(text) or false
      local key = g and g[3][1]
      local u = key and (keys[key] or G.holder(key))
      local other, target
      if u then other, target = conflict(id, g, u, claims) end
      if other == 'raise' and not lenient then return nil, nil, nil, { target, key } end
      if other == 'raise' then other, target = target, nil end
      if other and other ~= '' then
        answers[i] = '1'
        others[#others + 1] = i
        others[#others + 1] = other
        if target then over[#over + 1] = { target, i, g } end
      else
        answers[i] = '0'
        taken[id] = true
        count = count + 1
        guards[i] = g
        if key then
          claims[id] = true
          if u then
            u[2], behind[i] = id, key
          else
            local spec = specs[list[from + 4 * i - 2]]
            u = { id, '', g[3][2], g[3][3] >= 0 and spec.run_at + g[3][3] or -1 }
          end
          keys[key] = u
        end
      end
    end
  end
  -- The first write. A full server refuses it, and then nothing was stored.
  local last = call('HINCRBY', META, 'seq', count)
  for queue in pairs(new) do
    call('HSET', QUEUES, queue, '')
    wake(WAKE)
  end
  local bodies, arrivals, pack = into(hsets, BODY), into(zadds, ARRIVALS), struct.pack
  local seq, m = last - count, 0
  for i = 1, n do
    if answers[i] == '0' then
      seq = seq + 1
      local id, at_list = ids[i], from + 4 * i - 4
      local spec = specs[list[at_list + 2]]
      local order = spec.place .. pack('>I6', seq)
      bodies[m + 1] = id
      bodies[m + 2] = spec.times .. list[at_list + 1] .. order
      arrivals[m + 1] = seq
      arrivals[m + 2] = id
      m = m + 2
      local g = guards[i]
      if g then
        call('HSET', K.GUARDS, id, list[at_list + 3])
        G.any, G.known[id] = true, g
        if g[2] ~= '' then
          forget_marker(g[2])
          call('ZADD', K.CARRIERS, 0, g[2] .. '\0' .. id)
        end
      end
      if behind[i] then
        jobs[id] = born(bodies[m])
        G.block(id, jobs[id], 'unique:' .. behind[i])
      else
        local index = spec.list
        local k = #index
        index[k + 1] = spec.score
        index[k + 2] = spec.prefix .. order .. id
        spec.used = true
      end
      if spec.expires_at then zadd(EXPIRING, spec.expires_at, id) end
    end
  end
  for _, spec in pairs(specs) do
    if spec.used and spec.ready then
      woken[spec.queue] = true
    elseif spec.used then
      soonest[spec.queue] = math.min(soonest[spec.queue] or spec.run_at, spec.run_at)
    end
  end
  for key, u in pairs(keys) do G.hold_key(key, u) end
  if #over > 0 then flush() end
  for _, one in ipairs(over) do replace(one[1], list, from + 4 * one[2] - 4, one[3]) end
  return table.concat(answers), last, others
end
