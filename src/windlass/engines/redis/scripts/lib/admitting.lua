-- What guards make of jobs that are stored: who gives way to the holder of a unique key, who waits behind it. Part of
-- `inserting`; an enqueue of jobs without guards goes without this, and without its keys.

-- list[first] on are the guards (lib/guards.lua) of the jobs that are inserted next, "" for none; `runs` as insert has
-- them. With `lenient` a job whose rule is to raise is a duplicate.
function G.admit(list, first, runs, lenient)
  local new = {
    texts = {}, specs = {}, lenient = lenient, guards = {}, keys = {}, over = {}, behind = {}, claims = {}, others = {},
  }
  local n = 0
  for i = 1, #runs, 2 do
    for j = n + 1, n + runs[i + 1] do new.specs[j], new.texts[j] = runs[i], list[first + j - 1] end
    n = n + runs[i + 1]
  end
  G.new = new
end

-- What becomes of a job whose unique key another has, before anything is written. Gives the answer, and the id of the
-- job that is to be written over, or of the holder that it waits behind.
local function conflict(g, u, claims)
  local rule, holder, behind = g[3][4], u[1], u[2]
  if rule == 'return' then return holder end
  if rule == 'raise' then return 'raise', holder end
  if rule == 'keep_latest' and behind ~= '' then return behind, behind end
  load({ holder })
  local fresh, its = claims[holder] == g[3][1], G.of(holder)
  local job = its and its[3][1] == g[3][1] and jobs[holder] -- the key may outlive its job, and another have the id now
  if fresh or (job and job[STATE] == sWAITING) then return holder, holder end
  if rule == 'keep_latest' and job and job[STATE] == sRUNNING then return '', holder end
  return holder
end

local function has_expired(id, claims)
  if claims[id] then return false end
  load({ id })
  local job = jobs[id]
  return job and job[STATE] == sWAITING and job[EXPIRES_AT] > 0 and job[EXPIRES_AT] <= wall
end

-- Whether a new job, the one numbered i, is not stored because of its unique key.
function G.yields(i, id)
  local new = G.new
  if new.raised or new.texts[i] == '' then return false end
  local g = cmsgpack.unpack(new.texts[i])
  local key = g[3][1]
  local u = key and (new.keys[key] or G.holder(key))
  local other, target
  if u and new.lapsed and has_expired(u[1], new.claims) then
    new.lapsed[#new.lapsed + 1] = u[1]
    return true
  end
  if u then other, target = conflict(g, u, new.claims) end
  if other == 'raise' and not new.lenient then
    new.raised = { target, key }
    return true
  end
  if other == 'raise' then other, target = target, nil end
  if other and other ~= '' then
    new.others[#new.others + 1] = i
    new.others[#new.others + 1] = other
    if target then new.over[#new.over + 1] = { target, i, g } end
    return true
  end
  new.guards[i] = g
  if key then
    new.claims[id] = key
    if u then
      -- While one waits behind the holder, the key is the holder's to its end: nothing else would wake it.
      u[2], u[4], new.behind[i] = id, -1, key
    else
      u = { id, '', g[3][2], g[3][3] >= 0 and new.specs[i].run_at + g[3][3] or -1 }
    end
    new.keys[key] = u
  end
  return false
end

-- Store the guards of a new job; true when it waits behind another and not in its queue.
function G.store(i, id, body)
  local new = G.new
  local g, key = new.guards[i], new.behind[i]
  if g then G.keep(id, new.texts[i], g) end
  if g and g[4] and g[4][2][1] then
    jobs[id] = born(body)
    G.wait_at(id, jobs[id], g[4][2])
    return true
  end
  if not key then return false end
  jobs[id] = born(body)
  G.block(id, jobs[id], 'unique:' .. key)
  return true
end

-- Write a new job over a waiting one, which keeps its id and its arrival.
local function replace(id, spec, text, body_text, g)
  local body = call('HGET', BODY, id)
  jobs[id] = nil
  load({ id })
  local job = body and jobs[id]
  if not job then return end
  local gate, ties = G.gate_of(id), G.ties(id)
  leave_waiting(id, job)
  G.drop(id)
  G.drop_notes(id) -- of runs with other arguments
  hdel(PROGRESS, id)
  call('HDEL', REC, id)
  call('HSET', BODY, id, sub(body, 1, 6) .. sub(spec.times, 7) .. body_text .. spec.place
    .. struct.pack('>I6', job[SEQ]))
  G.keep(id, text, g)
  if ties then G.tie(id, ties[1], ties[2]) end
  jobs[id] = nil
  load({ id })
  job = jobs[id]
  local key = g[3][1]
  if gate and string.sub(gate, 1, 5) == 'join:' then return G.wait_at(id, job, ties[2]) end
  if gate == 'unique:' .. key then
    G.block(id, job, gate)
    if job[EXPIRES_AT] > 0 then zadd(EXPIRING, job[EXPIRES_AT], id) end
    return
  end
  local u = G.holder(key)
  if u and u[2] == "" and g[3][3] >= 0 then
    u[4] = spec.run_at + g[3][3]
    G.hold_key(key, u)
  end
  wait_again(id, job)
end

-- After the jobs are stored: take the keys, and write over those that give way. list[at_body + i] is the body of i.
function G.admitted(list, at_body)
  local new = G.new
  for key, u in pairs(new.keys) do G.hold_key(key, u) end
  for _, one in ipairs(new.over) do
    flush() -- removals are sent before additions: what the one before has added must be there to be removed
    local i = one[2]
    replace(one[1], new.specs[i], new.texts[i], list[at_body + i], one[3])
  end
  local others, n = {}, #new.texts
  for i = 1, #new.others, 2 do others[new.others[i]] = new.others[i + 1] end
  for i = 1, n do
    local g = new.guards[i] or new.texts[i] ~= '' and G.sound_guards(new.texts[i])
    if g and g[4] and #g[4][1] > 0 then
      local id = list[at_body - n + i]
      if new.guards[i] then
        for _, join in ipairs(g[4][1]) do G.count_member(join, id, '0', true) end
      else
        flush()
        G.enter(others[i] or id, g[4][1])
      end
    end
  end
end
