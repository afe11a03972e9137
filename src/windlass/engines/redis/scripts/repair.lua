-- uses: records guards ending
-- Make jobs dead whose record is not sound, with what can be kept of them; one that has ended keeps its end. Looks again
-- itself, so it may be told too much.
--
-- KEYS     fixed
-- ARGV     4 ms to keep dead jobs  5 cause  6 "1" to believe that they are not sound where the scripts see nothing wrong
--          7... id, the id to keep it under, reason, error text up to its time
-- Returns  mark, ids that are dead now
-- Cost     O(jobs log stored); O(running + holds + waiters) for one whose place is not known

allow_growth()
local keep, cause, believed = tonumber(ARGV[4]), ARGV[5], ARGV[6] == '1'

-- Take out the members of an index that end with the id; gives what stands before it.
local function take_out(key, id)
  local found, size = {}, #id + 1
  for _, member in ipairs(call('ZRANGE', key, 0, -1)) do
    if string.sub(member, -size) == '\0' .. id then
      call('ZREM', key, member)
      found[#found + 1] = string.sub(member, 1, -size - 1)
    end
  end
  return found
end

local function drop_guards(id)
  call('HDEL', K.GUARDS, id)
  G.known[id] = false
  for _, gate in ipairs(take_out(K.HOLDS, id)) do G.open(gate, 0) end
  take_out(K.CARRIERS, id)
end

-- Take a job of which nobody can tell where it is out of every index.
local function leave_everything(id, job)
  local gate = call('HGET', K.BLOCKED_BY, id)
  if gate then
    for _, member in ipairs(call('ZRANGEBYLEX', K.BLOCKED, '[' .. gate .. '\0', '(' .. gate .. '\1')) do
      if G.id_at(member, gate) == id then call('ZREM', K.BLOCKED, member) end
    end
    call('HDEL', K.BLOCKED_BY, id)
    G.open(gate, 0)
  end
  local base = job and at[job[INFO][QUEUE]]
  if base then
    zrem(KEYS[base + kALONE], spot(id, job))
    zrem(KEYS[base + kREADY], spot(id, job))
    zrem(KEYS[base + kDUE], due_spot(id, job))
  end
  take_out(RUNNING, id)
  take_out(CANCELS, id)
  for _, held in ipairs(take_out(K.HOLDS, id)) do G.open(held, 0) end
  zrem(EXPIRING, id)
  zrem(DEAD, id)
  zrem(DEAD_PURGE, id)
end

-- A body that can be read, of what there is: its name and payload, or all of its bytes as the payload.
local function new_body(body, head, seq)
  local rest = '\148\160\144\192\198' .. struct.pack('>I4', #(body or '')) .. (body or '')
  local stored, due = wall, wall
  if body and #body >= 26 then
    local stored_at, run_at, size = struct.unpack('>I6I6H', body)
    if stored_at <= G.LAST_MS then stored = stored_at end
    if run_at <= G.LAST_MS then due = run_at end
    if #body > 26 + size and string.byte(body, 15 + size) == 148 then rest = sub(body, 15 + size, -13) end
  end
  return struct.pack('>I6I6H', stored, due, #head) .. head .. rest .. struct.pack('>I6I6', place_at(due), seq)
end

local dead = {}
for i = 7, #ARGV, 4 do
  local id, kept, why, error_head = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local body, record, guards = call('HGET', BODY, id), call('HGET', REC, id), call('HGET', K.GUARDS, id)
  local seq = call('ZSCORE', ARRIVALS, id)
  local fresh, moved = body and born(body), record and read(record)
  local g = guards and G.sound_guards(guards)
  local sound = body and fresh and (moved or not record) and kept == id
  if sound and guards and not g then
    if moved and moved[STATE] >= sDONE then drop_guards(id) else sound = false end
  end
  local gate = sound and call('HGET', K.BLOCKED_BY, id) or ''
  if string.sub(gate, 1, 5) == 'join:' then -- nobody may know any more what it waits for; see audit.lua
    local wait = g and g[4] and g[4][2]
    sound = sound and wait and wait[1] and G.join(wait[1])
  end
  if (body or record or seq) and not (sound and not believed) then
    local has_ended = moved and moved[STATE] >= sDONE and kept == id
    local known = fresh and (moved or not record) and (moved or fresh)
    if guards and not g then drop_guards(id) end
    if not has_ended then
      if known and at[known[INFO][QUEUE]] then leave(id, known) else leave_everything(id, fresh) end
      flush()
    end
    seq = tonumber(seq or 0)
    if seq < 1 or seq >= 2 ^ 47 then
      count_more('total:restored', 1)
      seq = G.raise(META, 'seq', 1, function() return tonumber(call('ZREVRANGE', ARRIVALS, 0, 0, 'WITHSCORES')[2] or 0) end)
    end
    local head = moved and moved[HEAD] or fresh and fresh[HEAD] or cmsgpack.pack({ 'damaged', 0, 1, -1, 0 })
    if not fresh then body = new_body(body, head, seq) end
    local job = moved or born(body)
    if kept ~= id then
      G.drop_notes(id)
      for _, key in ipairs({ BODY, REC, RESULT, ERRORS, REASON, PROGRESS, CAUSE, RECOVERIES, K.GUARDS }) do call('HDEL', key, id) end
      call('ZREM', ARRIVALS, id)
    end
    hset(BODY, kept, body)
    zadd(ARRIVALS, seq, kept)
    job[HELD] = nil
    job[SEQ] = seq
    jobs[kept] = job
    add_error(kept, error_text(error_head, job[ATTEMPT] + 1))
    if has_ended then
      hset(REASON, kept, why)
    else
      call('HSETNX', QUEUES, job[INFO][QUEUE], '')
      finish(kept, job, sDEAD, keep)
      hset(REASON, kept, why)
      set_cause(kept, job, cause)
      count_more('total:dead', 1)
      dead[#dead + 1] = kept
    end
    save(kept)
    flush()
  end
  call('HDEL', DAMAGED, id)
  G.damaged[id] = nil
end
return { finish_marked(), dead }
