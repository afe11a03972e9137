-- Joins: sets of jobs that are counted by how they end, and the jobs that wait for that; see engines/sqlite/joins.py and
-- core/join.py, whose rules these are. Goes with `guards`: a job that is a member of a join, or waits for one, has its ties
-- as a fourth part there: {{join, ...}, {join, of, count, delay, ms to keep it when it is skipped} or {}}.
--
-- JOINS      join -> {sealed, total, ok, bad, void, made at, moved at, ended at or 0, ms to keep, home, meta, ms between looks}, msgpack;
--            join NUL id -> how that member ended: "0" it has not, "2" done, "3" dead, "4" cancelled
-- TIED       "m" NUL join NUL id: a member · "w" or "s" NUL join NUL of NUL count NUL id: a job that waits, or was skipped
--            "j" NUL join · "h" NUL home NUL join · "d" NUL join: its counters have moved, and it was not decided since
-- JOIN_ENDS  join at the time of the next look: of one that has ended when it may be forgotten, of an open one when upkeep
--            names it, if it is watched
-- The counters are derived in the step that writes how a member ended. No id has a NUL.

G.SEALED, G.TOTAL, G.OK, G.BAD, G.VOID, G.MADE, G.MOVED, G.ENDED_AT, G.KEEP, G.HOME, G.WATCH = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12
G.LEVELS = 64 -- of waiters that wait for waiters, in one step
G.AT_ONCE = 1000 -- waiters of one kind that one join moves; a script that has moved so many leaves the rest
G.LOOK_AGAIN = 3600000 -- ms: at a join that is kept for a dead member
G.HELD_FOR = 2 ^ 50 -- what the end of a record is put off by while it is a member; as schema.HELD

G.joins, G.dirty, G.moved = {}, {}, {} -- join -> what it is, or false; those to decide; those to write
G.gone_on = 0 -- waiters that were moved
G.orphans = {} -- jobs that are to wait for a join that is not there: for nothing that could come

function G.sound_join(text)
  local j = G.unpacked(text, 'nnnnnnnnnss*')
  if j and #j == 11 then j[G.WATCH] = 0 end
  return j and #j == 12 and G.is_number(j[G.WATCH]) and j or nil
end

function G.join(id)
  local j = G.joins[id]
  if j == nil then
    j = G.sound_join(call('HGET', K.JOINS, id)) or false
    G.joins[id] = j
  end
  return j
end

function G.ties(id)
  local g = G.of(id)
  return g and g[4]
end

function G.sound_ties(ties)
  if type(ties) ~= 'table' or type(ties[1]) ~= 'table' or type(ties[2]) ~= 'table' then return false end
  for _, join in ipairs(ties[1]) do
    if type(join) ~= 'string' then return false end
  end
  local wait = ties[2]
  if wait[1] == nil then return true end
  return type(wait[1]) == 'string' and (wait[2] == 'ok' or wait[2] == 'bad' or wait[2] == 'end') and G.is_number(wait[3])
    and wait[3] >= 0 and G.is_number(wait[4]) and G.is_number(wait[5])
end

-- Let a job be a member of more joins, and wait for another one if `wait` is given.
function G.tie(id, joins, wait)
  local g = G.of(id) or { {}, '', {} }
  if G.damaged[id] then return end -- what nobody can read is not written over; the job dies of it
  local old, mine, seen = g[4] or { {}, {} }, {}, {}
  for _, list in ipairs({ old[1], joins }) do
    for _, join in ipairs(list) do
      if not seen[join] then
        seen[join] = true
        mine[#mine + 1] = join
      end
    end
  end
  local new = { g[1], g[2], g[3], { mine, wait or old[2] } }
  call('HSET', K.GUARDS, id, cmsgpack.pack(new))
  G.any, G.known[id] = true, new
end

-- Members. ------------------------------------------------------------------------------------------

G.COUNTER = { ['2'] = G.OK, ['3'] = G.BAD, ['4'] = G.VOID }

-- Write how a member has ended, and count it. A set decides: what is written already counts no second time, and only
-- what `enters` becomes a member.
function G.count_member(join, id, verdict, enters)
  local j = G.join(join)
  if not j then return end
  local field = join .. '\0' .. id
  local before = call('HGET', K.JOINS, field)
  if before == verdict or not (before or enters) then return end
  if not before then
    call('ZADD', K.TIED, 0, 'm\0' .. field)
    j[G.TOTAL] = j[G.TOTAL] + 1
  end
  local from, to = G.COUNTER[before], G.COUNTER[verdict]
  if from then j[from] = j[from] - 1 end
  if to then j[to] = j[to] + 1 end
  call('HSET', K.JOINS, field, verdict)
  j[G.MOVED], G.dirty[join], G.moved[join] = wall, true, true
end

-- Whether a record is kept for a join.
function G.is_member(id, ties)
  for _, join in ipairs(ties[1]) do
    if G.join(join) and call('HEXISTS', K.JOINS, join .. '\0' .. id) == 1 then return true end
  end
  return false
end

-- A job has ended, as its record says.
function G.member_ended(id, ties)
  local verdict = tostring(jobs[id][STATE])
  for _, join in ipairs(ties[1]) do G.count_member(join, id, verdict) end
  if not G.skipping then G.drop_wait(id, ties[2]) end
end

-- A job that had ended runs again, or will.
function G.member_again(id, ties)
  for _, join in ipairs(ties[1]) do G.count_member(join, id, '0') end
end

-- A record goes. One that had not ended counts as an end.
function G.member_gone(id, ties)
  for _, join in ipairs(ties[1]) do
    if call('HGET', K.JOINS, join .. '\0' .. id) == '0' then G.count_member(join, id, '4') end
  end
  G.drop_wait(id, ties[2])
end

-- A job that is there enters joins as it stands; what is not there counts as an end.
function G.enter(id, joins)
  if not jobs[id] then jobs[id] = nil end -- it may have ended in this script without being read
  load({ id })
  local job = jobs[id]
  local has_ended = job and job[STATE] >= sDONE
  local verdict = has_ended and tostring(job[STATE]) or job and '0' or '4'
  for _, join in ipairs(joins) do
    local known = not job and call('HGET', K.JOINS, join .. '\0' .. id) or '0'
    if known == '0' then G.count_member(join, id, verdict, true) end -- a lost record changes no end that is known
  end
  if not job then return end
  G.tie(id, joins)
  if has_ended and job[STATE] ~= sDEAD and job[PURGE] < G.HELD_FOR and G.is_member(id, { joins }) then
    G.stay(id, job, math.min(job[PURGE] + G.HELD_FOR, G.NUMBER_MAX), true)
  end
end

-- Keep the record of a job that is done or cancelled until then.
function G.stay(id, job, purge, kept)
  job[PURGE] = purge
  zadd(KEYS[at[job[INFO][QUEUE]] + (job[STATE] == sDONE and kDONE or kCANCELLED)], G.ended_at(purge, kept), id)
  save(id)
end

-- When upkeep looks at a join next by itself, or nil.
function G.look_at(j)
  if j[G.ENDED_AT] > 0 then return j[G.HOME] == '' and j[G.ENDED_AT] + j[G.KEEP] or nil end
  return j[G.WATCH] > 0 and wall + j[G.WATCH] or nil
end

function G.look_later(join, j)
  local due = G.look_at(j)
  if due then call('ZADD', K.JOIN_ENDS, due, join) else call('ZREM', K.JOIN_ENDS, join) end
end

-- Making. `flat` is id, sealed, ms to keep, home, meta, ms between looks, {members}, ... Nothing is written before `advance`.
function G.make_joins(flat)
  for i = 1, #flat, 7 do
    local id = flat[i]
    G.joins[id] = { flat[i + 1], 0, 0, 0, 0, wall, wall, 0, flat[i + 2], flat[i + 3], flat[i + 4], flat[i + 5] }
    G.dirty[id], G.moved[id] = true, true
  end
end

-- Whether one of them is there already.
function G.knows_joins(flat)
  for i = 1, #flat, 7 do
    if G.joins[flat[i]] or call('HEXISTS', K.JOINS, flat[i]) == 1 then return true end
  end
  return false
end

-- After the jobs are stored: let those that were there already enter, and seal.
function G.joined(flat, seals, enters)
  for i = 1, #flat, 7 do
    call('ZADD', K.TIED, 0, 'j\0' .. flat[i])
    if flat[i + 5] > 0 then G.look_later(flat[i], G.joins[flat[i]]) end
    if flat[i + 3] ~= '' then call('ZADD', K.TIED, 0, 'h\0' .. flat[i + 3] .. '\0' .. flat[i]) end
    flush()
    for _, id in ipairs(flat[i + 6]) do G.enter(id, { flat[i] }) end
  end
  flush()
  for _, one in ipairs(enters) do
    if G.join(one[1]) then G.enter(one[2], { one[1] }) end
  end
  for _, id in ipairs(seals) do
    local j = G.join(id)
    if j and j[G.SEALED] == 0 then
      j[G.SEALED], j[G.MOVED] = 1, wall
      G.dirty[id], G.moved[id] = true, true
    end
  end
end

-- Waiters. ------------------------------------------------------------------------------------------

function G.wait_entry(kind, id, wait)
  return string.format('%s\0%s\0%s\0%.0f\0%s', kind, wait[1], wait[2], wait[3], id)
end

-- A job that is in no index waits for a join.
function G.wait_at(id, job, wait)
  job[STATE], job[WORKER], job[EXPIRES_AT] = sWAITING, '', 0
  G.block(id, job, 'join:' .. wait[1])
  call('ZADD', K.TIED, 0, G.wait_entry('w', id, wait))
  G.dirty[wait[1]] = true
  if not G.join(wait[1]) then G.orphans[#G.orphans + 1] = id end
  save(id)
end

function G.drop_wait(id, wait)
  if wait[1] then call('ZREM', K.TIED, G.wait_entry('w', id, wait), G.wait_entry('s', id, wait)) end
end

-- A skipped job is to wait or to go on: it needs its unique key again.
function G.unfinish(id, job)
  local g = G.of(id)
  if g[3][1] and not G.take_key(id, g) then return false end
  leave_finished(id, job)
  job[FINISHED], job[PURGE] = 0, 0
  hdel(REASON, id)
  G.member_again(id, g[4])
  return true
end

G.act = {}

function G.act.go(id, job, wait)
  if job[STATE] == sWAITING then
    leave_waiting(id, job)
  elseif job[STATE] ~= sCANCELLED or not G.unfinish(id, job) then
    return
  end
  G.drop_wait(id, wait)
  job[RUN_AT] = math.max(job[RUN_AT], wall + wait[4])
  if job[PLACE] >= BIAS then stand_at_due_time(job) end -- else it goes to the front
  job[EXPIRES_AT] = job[INFO][EXPIRES_MS] < 0 and 0 or job[RUN_AT] + job[INFO][EXPIRES_MS]
  wait_again(id, job)
  save(id)
end

function G.act.skip(id, job, wait)
  if job[STATE] ~= sWAITING then return end
  if job[FENCE] > 0 then return G.act.go(id, job, wait) end -- a body that has run decides for itself
  leave_waiting(id, job)
  G.skipping = true
  finish(id, job, sCANCELLED, wait[5])
  G.skipping = false
  hset(REASON, id, 'skipped')
  count_more('total:cancelled', 1)
  call('ZREM', K.TIED, G.wait_entry('w', id, wait))
  call('ZADD', K.TIED, 0, G.wait_entry('s', id, wait))
  save(id)
end

function G.act.wait(id, job, wait)
  if job[STATE] ~= sCANCELLED or not G.unfinish(id, job) then return end
  call('ZREM', K.TIED, G.wait_entry('s', id, wait))
  G.wait_at(id, job, wait)
end

-- Move those of one kind who wait, or were skipped; true when there may be more of them.
function G.decide_kind(act, kinds, tail)
  local more = false
  for _, kind in ipairs(kinds) do
    local prefix = kind .. '\0' .. tail .. '\0'
    local found = call('ZRANGEBYLEX', K.TIED, '[' .. prefix, '(' .. string.sub(prefix, 1, -2) .. '\1', 'LIMIT', 0, G.AT_ONCE)
    local ids = {}
    for i, entry in ipairs(found) do ids[i] = string.sub(entry, #prefix + 1) end
    load(ids)
    G.know(ids)
    G.gone_on = G.gone_on + #ids
    for i, id in ipairs(ids) do
      local ties = jobs[id] and G.ties(id)
      if ties and ties[2][1] then act(id, jobs[id], ties[2]) else call('ZREM', K.TIED, found[i]) end
    end
    if #found > 0 then flush() end -- removals are sent before additions, and what was skipped just now may wait again
    more = more or #found == G.AT_ONCE
  end
  return more
end

function G.decide(join)
  local j = G.join(join)
  if not j then return end -- who waits for one that was lost is found by upkeep
  for _, kind in ipairs({ 'w', 's' }) do
    local from = '[' .. kind .. '\0' .. join .. '\0'
    while true do
      local first = call('ZRANGEBYLEX', K.TIED, from, '(' .. kind .. '\0' .. join .. '\1', 'LIMIT', 0, 1)[1]
      if not first then break end
      local tail, of, count = string.match(first, '^%a%z(.-%z(%a+)%z(%d+))%z', 1)
      if not tail then
        call('ZREM', K.TIED, first) -- no entry of ours
      else
        local what = G.decision(j[1] == 1, j[2], j[3], j[4], j[5], of, tonumber(count))
        local whom = what == 'go' and { kind } or what == 'skip' and { 'w' } or { 's' }
        if whom[1] == kind and G.decide_kind(G.act[what], whom, tail) then G.dirty[join] = true end
        from = '(' .. kind .. '\0' .. tail .. '\1'
      end
    end
  end
  local has_ended = j[G.SEALED] == 1 and j[G.TOTAL] == j[G.OK] + j[G.BAD] + j[G.VOID]
  if has_ended and j[G.ENDED_AT] == 0 then
    j[G.ENDED_AT] = wall
    G.look_later(join, j)
  elseif not has_ended and j[G.ENDED_AT] ~= 0 then
    j[G.ENDED_AT] = 0
    G.look_later(join, j)
  end
  G.moved[join] = true
end

-- Decide the joins that have moved, level by level; what is left is noted and done by the next script.
function G.advance()
  if G.tied == nil then G.tied = call('ZCARD', K.TIED) > 0 end
  if not G.tied and not next(G.dirty) then return end
  flush()
  for _, entry in ipairs(G.tied and call('ZRANGEBYLEX', K.TIED, '[d\0', '(d\1', 'LIMIT', 0, 64) or {}) do
    call('ZREM', K.TIED, entry)
    G.dirty[string.sub(entry, 3)] = true
  end
  for _, id in ipairs(G.orphans) do
    local wait = G.ties(id)[2]
    if not G.join(wait[1]) then G.act.skip(id, jobs[id], wait) end -- else it was made in the meantime
  end
  G.orphans = {}
  flush()
  for _ = 1, G.LEVELS do
    if not next(G.dirty) then break end
    local now = {}
    for join in pairs(G.dirty) do now[#now + 1] = join end
    table.sort(now)
    G.dirty = {}
    for _, join in ipairs(now) do
      if G.gone_on < G.AT_ONCE then G.decide(join) else G.dirty[join] = true end
    end
    flush()
    if G.gone_on >= G.AT_ONCE then break end
  end
  for join in pairs(G.dirty) do call('ZADD', K.TIED, 0, 'd\0' .. join) end
  for join in pairs(G.moved) do
    if G.joins[join] then call('HSET', K.JOINS, join, cmsgpack.pack(G.joins[join])) end
  end
  G.dirty, G.moved, G.tied, G.gone_on = {}, {}, nil, 0
end
