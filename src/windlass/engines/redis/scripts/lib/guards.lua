-- Guards: what a job holds, where it waits, and what is released when it moves. Part of `records`.
--
-- GUARDS      id -> {{{kind, gate, limit, per, burst, keep}...}, once key, {unique key, until, ttl, rule}}, msgpack
-- BLOCKED     gate NUL queue NUL level place seq id, in that order; BLOCKED_BY id -> gate
-- HOLDS       gate NUL id: slots and probes of running jobs, Once keys of jobs that have not ended
-- ONCE        key -> {id, result, until}; MARKERS key at the time of a look; CARRIERS key NUL id of jobs not done
-- GATES       gate at the time from which it may let waiters on; 0 is now
-- UNIQUE      key -> {id, id that waits behind it or "", until, expires or -1}
-- Times of gates are of the clock of leases. In production that is the server's TIME, so a step of its clock moves them.

local read_guards = {} -- jobs of a batch may have the same
local function learn(id, text)
  local g = text and read_guards[text]
  if g == nil then
    g = text and G.sound_guards(text) or false
    if text then read_guards[text] = g end
  end
  if text and not g then G.note_damage(id, 'its guards are not readable') end
  G.known[id] = g
  return g
end

function G.of(id)
  if G.any == nil then G.any = call('HLEN', K.GUARDS) > 0 end
  if not G.any then return false end
  local g = G.known[id]
  if g == nil then g = learn(id, call('HGET', K.GUARDS, id)) end
  return g
end

-- Learn the guards of jobs in one read; gives their texts, false for none.
function G.know(ids)
  if G.any == nil then G.any = call('HLEN', K.GUARDS) > 0 end
  local texts = G.any and mget(K.GUARDS, ids) or {}
  for i, text in ipairs(texts) do learn(ids[i], text) end
  return texts
end

-- What there is at a gate of each kind. Of `places` there are as many as the guard's limit.
G.KINDS = { once = 'key', circuit = 'probes', concurrency = 'places', rate = 'window' }
G.RULES = { ["return"] = true, raise = true, replace = true, keep_latest = true }
G.UNTIL = { start = true, done = true, expiry = true }

-- The guards that a text has, or nil.
function G.sound_guards(text)
  local g = G.unpacked(text, 'tst')
  if not g or #g ~= 3 and (#g ~= 4 or not G.sound_ties(g[4])) then return nil end
  for _, guard in ipairs(g[1]) do
    if type(guard) ~= 'table' or not G.KINDS[guard[1]] or type(guard[2]) ~= 'string'
      or string.sub(guard[2], 1, #guard[1] + 1) ~= guard[1] .. ':' then
      return nil
    end
    for i = 3, 6 do
      if not G.is_number(guard[i]) then return nil end
    end
    local has = G.KINDS[guard[1]]
    local least = has == 'places' and guard[3] or has == 'window' and math.min(guard[3], guard[4]) or 1
    if least < 1 or guard[5] == 0 then return nil end
  end
  local key = g[3]
  if key[1] == nil then return g end
  local good = type(key[1]) == 'string' and G.UNTIL[key[2]] and G.is_number(key[3]) and G.RULES[key[4]]
  return good and g or nil
end

function G.place(gate, id, job)
  return gate .. '\0' .. job[INFO][QUEUE] .. '\0' .. struct.pack('>I8I6I6', level(job) + BIAS, job[PLACE],
    job[SEQ]) .. id
end

function G.id_at(member, gate)
  return string.sub(member, (string.find(member, '\0', #gate + 2, true) or #member) + 21)
end

function G.first_waiter(gate)
  if G.waiting == nil then G.waiting = call('ZCARD', K.BLOCKED) > 0 end
  if not G.waiting then return nil, '' end
  local found = call('ZRANGEBYLEX', K.BLOCKED, '[' .. gate .. '\0', '(' .. gate .. '\1', 'LIMIT', 0, 1)[1]
  return found and G.id_at(found, gate), found and string.match(found, '^.-%z(.-)%z') or ''
end

function G.count(key, prefix)
  return call('ZLEXCOUNT', key, '[' .. prefix .. '\0', '(' .. prefix .. '\1')
end

-- Where a waiting job is blocked, or nil.
function G.gate_of(id)
  if G.blocks == nil then G.blocks = call('HLEN', K.BLOCKED_BY) > 0 end
  return G.blocks and call('HGET', K.BLOCKED_BY, id) or nil
end

function G.block(id, job, gate)
  call('HSET', K.BLOCKED_BY, id, gate)
  call('ZADD', K.BLOCKED, 0, G.place(gate, id, job))
  G.blocks, G.waiting = true, true
end

function G.unblock(id, job, gate)
  call('HDEL', K.BLOCKED_BY, id)
  call('ZREM', K.BLOCKED, G.place(gate, id, job))
end

-- Let a gate be looked at, if anybody waits there.
function G.open(gate, when)
  local waiter, queue = G.first_waiter(gate)
  if waiter then
    call('ZADD', K.GATES, when, gate)
    G.rouse(queue)
  end
end

-- A job gives back its place at a gate. While `G.freed` is a table, places are collected for `let_go`.
function G.free(id, gate)
  local hold = gate .. '\0' .. id
  if G.freed then
    local list = into(G.freed, gate)
    list[#list + 1] = hold
  elseif call('ZREM', K.HOLDS, hold) == 1 then
    G.open(gate, 0)
  end
end

-- Give back the places that are collected, with one command for each gate.
function G.let_go()
  local freed = G.freed
  G.freed = nil
  for gate, holds in pairs(freed) do
    local gone = 0
    for i = 1, #holds, CHUNK do
      gone = gone + call('ZREM', K.HOLDS, unpack(holds, i, math.min(i + CHUNK - 1, #holds)))
    end
    if gone > 0 then G.open(gate, 0) end
  end
end

-- A job of a queue leaves running. Where a claim left others behind because the queue was full, workers may look again.
function G.makes_room(queue)
  if G.starved == nil then G.starved = call('HLEN', K.STARVED) > 0 end
  if G.starved and call('HEXISTS', K.STARVED, queue) == 1 then G.rouse(queue) end
end

-- A job leaves running: its slots and probes go.
function G.stopped(id)
  local g = G.of(id)
  if not g then return end
  for _, guard in ipairs(g[1]) do
    local has = G.KINDS[guard[1]]
    if has == 'places' or has == 'probes' then G.free(id, guard[2]) end
  end
end

-- A job has ended. `done` of a run leaves the Once marker, whose result G.ran has.
function G.ended(id, done)
  local g = G.of(id)
  if not g then return end
  if g[4] then G.member_ended(id, g[4]) end
  for _, guard in ipairs(g[1]) do
    if guard[1] == 'once' then
      if done and G.ran[id] ~= nil then
        call('HSET', K.ONCE, g[2], cmsgpack.pack({ id, G.ran[id], wall + guard[6] }))
        call('ZADD', K.MARKERS, wall + guard[6], g[2])
      end
      if done then call('ZREM', K.CARRIERS, g[2] .. '\0' .. id) end
      G.free(id, guard[2])
    end
  end
  G.free_key(id, g)
end

-- Forget the guards of a job, and let go what it holds by them.
function G.drop(id)
  local g = G.of(id)
  if not g then return end
  for _, guard in ipairs(g[1]) do G.free(id, guard[2]) end
  if g[2] ~= '' then call('ZREM', K.CARRIERS, g[2] .. '\0' .. id) end
  call('HDEL', K.GUARDS, id)
  G.known[id] = false
end

function G.removed(id)
  local g = G.of(id)
  if not g then return end
  if g[4] then G.member_gone(id, g[4]) end
  G.free_key(id, g)
  G.drop(id)
end

function G.holder(key)
  local text = call('HGET', K.UNIQUE, key)
  local u = G.unpacked(text, 'sssn')
  if u and (#u ~= 4 or not G.UNTIL[u[3]]) then u = nil end
  return u and (u[4] < 0 or u[4] > wall) and u or nil
end

function G.hold_key(key, u)
  call('HSET', K.UNIQUE, key, cmsgpack.pack(u))
  if u[4] >= 0 then call('ZADD', K.UNIQUE_EXPIRING, u[4], key) else call('ZREM', K.UNIQUE_EXPIRING, key) end
end

-- Have a job that has ended, and is to run again, hold its unique key; false, and why, when another job has it.
function G.take_key(id, g)
  local key = g[3][1]
  if g[3][2] == 'expiry' then return true end
  local u = G.holder(key)
  if u and u[1] ~= id then return false, 'unique key ' .. key .. ' is taken by ' .. u[1] end
  G.hold_key(key, { id, '', g[3][2], g[3][3] >= 0 and wall + g[3][3] or -1 })
  return true
end

-- When the key that a job holds is free by itself, once nobody waits behind the job. Until then the key is the holder's to
-- its end, and a `ttl` only matters to a key that nothing else frees.
function G.key_ends(id, g)
  if not g or g[3][2] ~= 'expiry' then return -1 end
  load({ id })
  return jobs[id] and jobs[id][RUN_AT] + g[3][3] or wall
end

-- The key of a job is free; what waits behind it takes its place.
function G.free_key(id, g)
  local key = g[3][1]
  local u = key and G.holder(key)
  if not u then return end
  if u[2] == id then
    u[2], u[4] = '', G.key_ends(u[1], G.of(u[1]))
    G.hold_key(key, u)
  elseif u[1] == id and u[2] ~= '' then
    local behind = u[2]
    local mine = G.of(behind)
    G.hold_key(key, { behind, '', mine and mine[3][2] or u[3], G.key_ends(behind, mine) })
    load({ behind })
    local job = jobs[behind]
    if job then
      leave_waiting(behind, job)
      wait_again(behind, job)
      flush() -- removals are sent before additions: this script may yet take it out of where it stands now
    end
  elseif u[1] == id and u[3] ~= 'expiry' then
    call('HDEL', K.UNIQUE, key)
    call('ZREM', K.UNIQUE_EXPIRING, key)
  end
end

-- Forget Once markers whose time is over and whose key no record carries.
local function forget_marker(key)
  local text = call('HGET', K.ONCE, key)
  local marker = G.unpacked(text, 'ssn')
  if text and (not marker or marker[3] <= wall) and G.count(K.CARRIERS, key) == 0 then
    call('HDEL', K.ONCE, key)
    call('ZREM', K.MARKERS, key)
  end
end

-- Write down the guards of a job.
function G.keep(id, text, g)
  call('HSET', K.GUARDS, id, text)
  G.any, G.known[id] = true, g
  if g[2] ~= '' then
    forget_marker(g[2])
    call('ZADD', K.CARRIERS, 0, g[2] .. '\0' .. id)
  end
end
