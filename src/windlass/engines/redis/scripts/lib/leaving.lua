-- Joins whose time is over are forgotten, and let go of the records of their members; those that are watched and have not
-- ended are named. Part of upkeep.

-- Whether a dead member may run again: so long a join is kept.
function G.has_dead(join)
  local from = '[m\0' .. join .. '\0'
  while true do
    local found = call('ZRANGEBYLEX', K.TIED, from, '(m\0' .. join .. '\1', 'LIMIT', 0, CHUNK)
    if #found == 0 then return false end
    local fields, dead = {}, {}
    for i, entry in ipairs(found) do fields[i] = string.sub(entry, 3) end
    for i, verdict in ipairs(mget(K.JOINS, fields)) do
      if verdict == '3' then dead[#dead + 1] = string.sub(fields[i], #join + 2) end
    end
    for _, score in ipairs(zscores(DEAD, dead)) do
      if score then return true end
    end
    from = '(' .. found[#found]
  end
end

-- A record that was kept for a join goes when it would have gone, if no other join has it.
function G.let_record_go(id, keep_done)
  local ties = G.ties(id)
  for _, join in ipairs(ties and ties[1] or {}) do
    if call('HEXISTS', K.JOINS, join .. '\0' .. id) == 1 then return end
  end
  load({ id })
  local job = jobs[id]
  if job and (job[STATE] == sDONE or job[STATE] == sCANCELLED) and job[PURGE] >= G.HELD_FOR then
    local purge = job[PURGE] - G.HELD_FOR
    G.stay(id, job, purge, purge - job[FINISHED] > keep_done)
  end
end

-- Forget up to so many members of a join, and the join when none is left; gives how many that were.
function G.forget_join(join, budget, keep_done)
  local found = call('ZRANGEBYLEX', K.TIED, '[m\0' .. join .. '\0', '(m\0' .. join .. '\1', 'LIMIT', 0, budget)
  for _, entry in ipairs(found) do
    call('ZREM', K.TIED, entry)
    call('HDEL', K.JOINS, string.sub(entry, 3))
    G.let_record_go(string.sub(entry, #join + 4), keep_done)
  end
  if #found < budget then
    local j = G.join(join)
    call('HDEL', K.JOINS, join)
    call('ZREM', K.TIED, 'j\0' .. join)
    if j and j[G.HOME] ~= '' then call('ZREM', K.TIED, 'h\0' .. j[G.HOME] .. '\0' .. join) end
    call('ZREM', K.JOIN_ENDS, join)
    G.joins[join] = false
    return #found + 1
  end
  return #found
end

-- Whether joins have moved and were not decided since: they have waiters that would be lost with them.
function G.any_dirty(joins)
  for _, join in ipairs(joins) do
    if G.dirty[join] or call('ZSCORE', K.TIED, 'd\0' .. join) then return true end
  end
  return false
end

-- Look at joins whose time has come; gives how many there were and rows that are gone, and those that are watched.
function G.look_at_joins(budget, keep_done)
  local gone, watched = 0, {}
  for _, join in ipairs(call('ZRANGEBYSCORE', K.JOIN_ENDS, '-inf', wall, 'LIMIT', 0, budget)) do
    local j = G.join(join)
    if gone >= budget then break end
    local due = j and G.look_at(j)
    if j and not (due and due <= wall) then
      if due and j[G.ENDED_AT] == 0 then watched[#watched + 1] = join end
      G.look_later(join, j)
    elseif j and j[G.BAD] > 0 and G.has_dead(join) then
      call('ZADD', K.JOIN_ENDS, wall + G.LOOK_AGAIN, join)
    else
      local inner = call('ZRANGEBYLEX', K.TIED, '[h\0' .. join .. '\0', '(h\0' .. join .. '\1', 'LIMIT', 0, budget)
      for i, entry in ipairs(inner) do inner[i] = string.sub(entry, #join + 4) end
      inner[#inner + 1] = #inner < budget and join or nil
      for _, one in ipairs((G.any_dirty({ join }) or G.any_dirty(inner)) and {} or inner) do
        if gone < budget then gone = gone + G.forget_join(one, budget - gone, keep_done) end
      end
    end
  end
  return math.max(gone, #watched), watched
end
