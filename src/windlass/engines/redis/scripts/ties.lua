-- uses: records guards
-- Let go what is held for jobs that do not run any more, places of jobs that do not wait there, and notes of jobs that
-- are gone; a note that its job does not know of is made known again. Counters of joins are derived anew.
--
-- KEYS     fixed
-- ARGV     4 "holds", "unique", "blocked", "notes" or "joins"  5... members of that
-- Returns  how many were let go
-- Cost     O(members log stored)

local gone, names_of = 0, tail(ARGV, 5)

-- Derive the counters of a join from its members; gives 1 when they were others.
function G.recount(join)
  local j = G.join(join)
  if not j then return 0 end
  local counted, from = { [G.TOTAL] = 0, [G.OK] = 0, [G.BAD] = 0, [G.VOID] = 0 }, '[m\0' .. join .. '\0'
  while true do
    local found, fields = call('ZRANGEBYLEX', K.TIED, from, '(m\0' .. join .. '\1', 'LIMIT', 0, CHUNK), {}
    if #found == 0 then break end
    for i, entry in ipairs(found) do fields[i] = string.sub(entry, 3) end
    for _, verdict in ipairs(mget(K.JOINS, fields)) do
      counted[G.TOTAL] = counted[G.TOTAL] + (verdict and 1 or 0)
      local counter = G.COUNTER[verdict]
      if counter then counted[counter] = counted[counter] + 1 end
    end
    from = '(' .. found[#found]
  end
  call('ZADD', K.TIED, 0, 'j\0' .. join)
  if j[G.HOME] ~= '' then call('ZADD', K.TIED, 0, 'h\0' .. j[G.HOME] .. '\0' .. join) end
  local due, score = G.look_at(j), tonumber(call('ZSCORE', K.JOIN_ENDS, join) or nil)
  if due and not (score and score <= math.max(due, wall + G.LOOK_AGAIN)) then G.look_later(join, j) end
  local wrong = 0
  for counter, count in pairs(counted) do
    if j[counter] ~= count then j[counter], wrong = count, 1 end
  end
  G.dirty[join], G.moved[join] = true, true
  return wrong
end

-- Whether a list of keys (no `key`) names what is there, or a note is in the list of its job. Otherwise that is put right.
local function is_listed(id, key)
  local index, listed, left = call('HGET', NOTES, id) or '', {}, {}
  for _, one in ipairs(G.note_keys(index)) do
    if key or call('HEXISTS', NOTES, id .. '\0' .. one) == 1 and not listed[one] then left[#left + 1] = one .. '\0' end
    listed[one] = true
  end
  if key then
    if listed[key] then return true end
    local field = id .. '\0' .. key
    local text = call('HGET', NOTES, field)
    call('HDEL', NOTES, field)
    G.note(id, key, text) -- it is in the list of what was not there before
    return false
  end
  left = table.concat(left)
  if left == index then return true end
  if left == '' then call('HDEL', NOTES, id) else call('HSET', NOTES, id, left) end
  return false
end

if ARGV[4] == 'holds' then
  local ids = {}
  for i, member in ipairs(names_of) do ids[i] = string.match(member, '%z(.*)$') or '' end
  load(ids)
  for i, member in ipairs(names_of) do
    local job, gate = jobs[ids[i]], string.match(member, '^(.-)%z') or member
    if not job or job[STATE] > sRUNNING or job[STATE] == sWAITING and string.sub(gate, 1, 5) ~= 'once:' then
      call('ZREM', K.HOLDS, member)
      G.open(gate, 0)
      gone = gone + 1
    end
  end
elseif ARGV[4] == 'blocked' then
  for _, member in ipairs(names_of) do
    local gate = string.match(member, '^(.-)%z') or ''
    local id = G.id_at(member, gate)
    load({ id })
    local job = jobs[id]
    if not job or job[STATE] ~= sWAITING or call('HGET', K.BLOCKED_BY, id) ~= gate or G.place(gate, id, job) ~= member then
      call('ZREM', K.BLOCKED, member)
      gone = gone + 1
    end
  end
elseif ARGV[4] == 'joins' then
  for _, field in ipairs(names_of) do
    local join, id = string.match(field, '^([^%z]*)%z?(.*)$')
    if id == '' then
      gone = gone + G.recount(join)
    elseif not G.join(join) then
      gone = gone + call('HDEL', K.JOINS, field)
      call('ZREM', K.TIED, 'm\0' .. field)
    else
      load({ id })
      local job, verdict = jobs[id], call('HGET', K.JOINS, field)
      local right = not job and (verdict == '0' and '4' or verdict) or job[STATE] >= sDONE and tostring(job[STATE]) or '0'
      if right ~= verdict then
        G.count_member(join, id, right)
        gone = gone + 1
      end
    end
  end
elseif ARGV[4] == 'notes' then
  for _, field in ipairs(names_of) do
    local id, key = string.match(field, '^([^%z]*)%z?(.*)$')
    local there = call('HEXISTS', BODY, id) == 1 or call('HEXISTS', REC, id) == 1 or call('ZSCORE', ARRIVALS, id)
    if not there or string.find(key, '%z') or field ~= id and key == '' or key == 'progress' then
      gone = gone + call('HDEL', NOTES, field)
    elseif not is_listed(id, key ~= '' and key) then
      gone = gone + 1
    end
  end
else
  for _, key in ipairs(names_of) do
    local text = call('HGET', K.UNIQUE, key)
    local u = G.holder(key)
    if u then load({ u[1], u[2] }) end
    local function waits(id) return id ~= '' and jobs[id] and jobs[id][STATE] <= sRUNNING end
    if text and not u or u and u[3] ~= 'expiry' and not waits(u[1]) then
      if u and waits(u[2]) then
        G.hold_key(key, { u[2], '', u[3], -1 })
      else
        call('HDEL', K.UNIQUE, key)
        call('ZREM', K.UNIQUE_EXPIRING, key)
      end
      gone = gone + 1
    elseif u and u[2] ~= '' and not waits(u[2]) then
      u[2] = ''
      G.hold_key(key, u)
      gone = gone + 1
    end
  end
end
finish_script()
return { gone }
