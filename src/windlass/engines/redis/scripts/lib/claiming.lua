-- Claiming: the head of the ready queues goes to one live worker.
-- The fences of a claim come from one counter: max(last + 1, now in microseconds). So no two claims ever share one, and
-- after a store lost its tail the clock is already past every fence that was given.

local PROMOTE_MAX = 2000 -- due jobs made ready by one claim

-- What the record of a job that nothing has touched yet bears behind its SEQ, without the fence, as `text`; false when the
-- job must go the long way. `tails` remembers it within a batch, by the head.
local function tail_of(body, worker, tails)
  if #body < 26 then return false end
  local high, low = string.byte(body, 13, 14)
  local sized = sub(body, 13, 14 + high * 256 + low)
  local tail = tails[sized]
  if tail == nil then
    local job = born(body)
    tail = job and job[EXPIRES_AT] == 0
      and { text = struct.pack('>I8I8', 0, 0) .. sized .. worker, queue = job[INFO][QUEUE], count = 0 }
    tails[sized] = tail
  end
  return tail
end

-- want: the list of ARGV, from the place of the worker's id on; see claim.lua.
local function claim(from)
  local worker, limit, alone = ARGV[from], tonumber(ARGV[from + 1]), ARGV[from + 2] == '1'
  local keep, shares = tonumber(ARGV[from + 3]), cmsgpack.unpack(ARGV[from + 4])
  local lease = call('ZSCORE', LEASES, worker)
  if not lease or tonumber(lease) <= boot then return { 1, -1, {}, 0, {} } end

  local cancels = {}
  if call('ZCARD', CANCELS) > 0 then
    local asked = call('ZRANGEBYLEX', CANCELS, '[' .. worker .. '\0', '(' .. worker .. '\1')
    for i, member in ipairs(asked) do asked[i] = string.sub(member, #worker + 2) end
    load(asked)
    for _, id in ipairs(asked) do
      if jobs[id] and jobs[id][STATE] == sRUNNING then
        cancels[#cancels + 1] = id
        cancels[#cancels + 1] = jobs[id][FENCE]
      end
    end
  end

  -- The queues that may be claimed from, in the order asked for.
  local open = {}
  local wanted = {}
  for i = 1, #shares, 2 do wanted[#wanted + 1] = shares[i] end
  for i, pause in ipairs(mget(QUEUES, wanted)) do
    if pause then
      local until_ms = tonumber(string.match(pause, '^(%d+)|') or '')
      if pause == '' or (until_ms and until_ms > 0 and until_ms <= wall) then
        open[#open + 1] = { wanted[i], shares[2 * i] }
      end
    end
  end

  local due_at
  local budget = PROMOTE_MAX
  for _, queue in ipairs(wanted) do
    local count, next_at = promote(queue, budget)
    budget = budget - count
    if next_at and (not due_at or next_at < due_at) then due_at = next_at end
    if alone then
      local head = call('ZRANGEBYSCORE', KEYS[at[queue] + kALONE], '(' .. wall, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
      if head[2] and (not due_at or tonumber(head[2]) < due_at) then due_at = tonumber(head[2]) end
    end
  end
  local due_in = due_at and math.max(0, due_at - wall) or -1
  if alone then limit = math.min(limit, 1) end
  if limit <= 0 then return { 0, due_in, cancels, 0, {} } end

  local ids, taken, left = {}, {}, limit
  local function take(queue, count, offset)
    local key = KEYS[at[queue] + (alone and kALONE or kREADY)]
    local got
    if alone then
      got = call('ZRANGEBYSCORE', key, '-inf', wall, 'LIMIT', offset, count)
    else
      got = call('ZRANGE', key, offset, offset + count - 1)
    end
    local n = #ids
    for i = 1, #got do ids[n + i] = string.sub(got[i], 13) end
    taken[key] = (taken[key] or 0) + #got
    left = left - #got
    return #got
  end
  local more = {}
  for _, share in ipairs(open) do
    if left <= 0 then break end
    local got = share[2] > 0 and take(share[1], math.min(share[2], left), 0) or 0
    if got >= share[2] then more[#more + 1] = { share[1], got } end
  end
  for _, rest in ipairs(more) do
    if left <= 0 then break end
    take(rest[1], left, rest[2])
  end
  if #ids == 0 then return { 0, due_in, cancels, 0, {} } end

  local records, bodies, reasons = mget(REC, ids), mget(BODY, ids), {}
  local seen = {} -- only a job that has a record can have a reason
  for i = 1, #ids do
    if records[i] then seen[#seen + 1] = ids[i] end
  end
  for i, reason in ipairs(mget(REASON, seen)) do reasons[seen[i]] = reason end
  for key, count in pairs(taken) do call('ZREMRANGEBYRANK', key, 0, count - 1) end
  local leases, n = {}, 0
  local given = tonumber(call('HGET', META, 'fence') or 0)
  local fence = math.max(given, micros - 1)
  local first = fence + 1
  local expired = 0
  local running, recs = into(zadds, RUNNING), into(hsets, REC)
  local owner = worker .. '\0'
  local pack, tails = struct.pack, {}
  local new = pack('>BBI4I4I4I4I8I8I8', sRUNNING, 0, 0, 0, 0, 0, wall, 0, 0) .. '\0\0'
  for i, id in ipairs(ids) do
    local body = bodies[i]
    local tail = body and not records[i] and tail_of(body, worker, tails)
    local job = body and not tail and (records[i] and read(records[i]) or born(body))
    if tail then
      fence = fence + 1
      local c = #recs
      recs[c + 1] = id
      recs[c + 2] = new .. sub(body, 7, 12) .. sub(body, -12) .. tail.text .. pack('>I8', fence)
      tail.count = tail.count + 1
      local r = #running
      running[r + 1] = '0'
      running[r + 2] = owner .. id
      leases[n + 1] = id
      leases[n + 2] = ''
      leases[n + 3] = body
      leases[n + 4] = ''
      n = n + 4
    elseif job then -- else it is an entry that a lost write left behind
      jobs[id] = job
      local expires_at = job[EXPIRES_AT]
      if expires_at > 0 then zrem(EXPIRING, id) end
      if expires_at > 0 and expires_at <= wall then
        expire(id, job, keep)
        expired = expired + 1
      else
        fence = fence + 1
        job[STATE] = sRUNNING
        job[FENCE] = fence
        job[WORKER] = worker
        job[STARTED] = wall
        local packed = written(job)
        local c = #recs
        recs[c + 1] = id
        recs[c + 2] = packed
        local r = #running
        running[r + 1] = '0'
        running[r + 2] = owner .. id
        count_flow('c', job[INFO][QUEUE], 1)
        leases[n + 1] = id
        leases[n + 2] = packed
        leases[n + 3] = body
        leases[n + 4] = reasons[id] or ''
        n = n + 4
      end
    end
  end
  for _, tail in pairs(tails) do
    if tail then count_flow('c', tail.queue, tail.count) end
  end
  if n > 0 then hset(META, 'fence', fence) end
  if n == 0 then due_in = 0 end -- only expired ones were at the head: look again at once
  total('cancelled', expired)
  flush()
  -- What is left behind is for another worker that may be idle.
  if left <= 0 and not alone then
    for _, share in ipairs(open) do
      if call('ZCARD', KEYS[at[share[1]] + kREADY]) > 0 then
        woken[share[1]] = true
        break
      end
    end
  end
  return { 0, due_in, cancels, first, leases }
end
