-- Claiming: the head of the ready queues goes to one live worker.
-- The fences of a claim come from one counter: max(last + 1, now in microseconds). So no two claims ever share one, and
-- after a store lost its tail the clock is already past every fence that was given.

G.PROMOTE_MAX = 2000 -- due jobs made ready by one claim
local SCAN_MAX, SCAN_STEP = 1000, 64 -- jobs that one claim looks at when guards are closed
G.ALONE_MAX = 10
G.FEW = 16 -- queues that one claim of any takes from at least, if there are more
G.MANY = 64 -- queues from which on it is cheaper to ask which of them have something

-- What the record of a job that nothing has touched yet bears behind its SEQ, without the fence, as `text`; false when the
-- job must go the long way. `tails` remembers it within a batch, by the head.
local function tail_of(body, worker, tails)
  if #body < 26 then return false end
  local high, low = string.byte(body, 13, 14)
  if #body < 26 + high * 256 + low then return false end -- as G.fits has it, without a call
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

-- A waiting job; false for one that does not wait, or that is not sound, which is noted.
function G.opened(id, body, record, guards)
  local fits = body and G.fits(body)
  local job = fits and (record and read(record) or not record and born(body))
  if job and (not guards or G.known[id]) then return job[STATE] == sWAITING and job end
  if body or record or call('ZSCORE', ARRIVALS, id) then
    G.note_damage(id, not body and 'its body is gone' or job and 'its guards are not readable'
      or record and fits and 'its record is not readable' or 'its body is not readable')
  end
  return false
end

-- The jobs of a worker that were asked to be cancelled: id, fence, ...
local function cancels_of(worker)
  local found = {}
  if call('ZCARD', CANCELS) == 0 then return found end
  local asked = call('ZRANGEBYLEX', CANCELS, '[' .. worker .. '\0', '(' .. worker .. '\1')
  for i, member in ipairs(asked) do asked[i] = string.sub(member, #worker + 2) end
  load(asked)
  for _, id in ipairs(asked) do
    if jobs[id] and jobs[id][STATE] == sRUNNING then
      found[#found + 1] = id
      found[#found + 1] = jobs[id][FENCE]
    end
  end
  return found
end

-- Of {name, share, ...}: {name, share} of the queues that may be claimed from, in the same order. Of many, those that have
-- something.
function G.named_queues(shares, alone)
  local wanted, open, share_of = {}, {}, {}
  for i = 1, #shares, 2 do wanted[#wanted + 1], share_of[shares[i]] = shares[i], shares[i + 1] end
  if #wanted > G.MANY then
    local scores, all = zscores(alone and LONE or BUSY, wanted), wanted
    wanted = {}
    for i, queue in ipairs(all) do
      if scores[i] then wanted[#wanted + 1] = queue end
    end
  end
  for i, pause in ipairs(mget(QUEUES, wanted)) do
    if pause and G.is_open(pause) then open[#open + 1] = { wanted[i], share_of[wanted[i]] } end
  end
  return open
end

-- Whether a queue still has what its index says; if not it is left out from now on.
function G.has_some(queue, alone)
  if not alone then
    local some = call('EXISTS', KEYS[at[queue] + kREADY]) == 1
    if not some then call('ZREM', BUSY, queue) end
    return some
  end
  local head = call('ZRANGE', KEYS[at[queue] + kALONE], 0, 0, 'WITHSCORES')[2]
  if head then call('ZADD', LONE, head, queue) else call('ZREM', LONE, queue) end
  return head and tonumber(head) <= wall
end

-- Walks round the queues that have something and may be claimed from, beginning behind `after`: each call gives so many
-- more, as {name}. `walk.ended` says that there are no others.
function G.walk(after, alone)
  local walk = { last = after }
  local from, to = after == '' and '-' or '(' .. after, '+'
  local function step(count)
    if alone then
      walk.ended = true
      return call('ZRANGEBYSCORE', LONE, '-inf', wall, 'LIMIT', 0, SCAN_MAX)
    end
    local names = call('ZRANGEBYLEX', BUSY, from, to, 'LIMIT', 0, count)
    if #names == count then
      from = '(' .. names[count]
    elseif to == '+' and after ~= '' then
      from, to = '-', '[' .. after
    else
      walk.ended = true
    end
    return names
  end
  function walk.more(count)
    local open = {}
    while #open < count and not walk.ended do
      local names = step(count - #open)
      for i, pause in ipairs(mget(QUEUES, names)) do
        if G.is_open(pause) and G.has_some(names[i], alone) then open[#open + 1] = { names[i] } end
      end
      walk.last = names[#names] or walk.last
    end
    return open
  end
  return walk
end

-- Promote what is due; gives in how many ms the next one is, or -1. In the lone lane jobs wait by their time anyway.
-- Without `shares` of every queue.
function G.promote_due(shares, alone)
  local due_at
  local budget = G.PROMOTE_MAX
  local function sooner(time)
    if time and (not due_at or time < due_at) then due_at = time end
  end
  if not shares or #shares > 2 * G.MANY then
    for _, queue in ipairs(call('ZRANGEBYSCORE', DUES, '-inf', wall, 'LIMIT', 0, SCAN_MAX)) do
      budget = budget - promote(queue, budget)
    end
    sooner(tonumber(call('ZRANGE', DUES, 0, 0, 'WITHSCORES')[2]))
    if alone then sooner(tonumber(call('ZRANGEBYSCORE', LONE, '(' .. wall, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2])) end
  else
    for i = 1, #shares, 2 do
      local count, next_at = promote(shares[i], budget)
      budget = budget - count
      sooner(next_at)
      if alone then
        sooner(tonumber(call('ZRANGEBYSCORE', KEYS[at[shares[i]] + kALONE], '(' .. wall, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]))
      end
    end
  end
  return due_at and math.max(0, due_at - wall) or -1
end

-- What a worker has room for, counted down while a claim goes on. rooms: {lane, free, ahead, ...}, or empty when `free`
-- is for all lanes. A job whose lane nobody knows takes only a free slot, or jobs that cannot start would be hoarded.
local function places_of(rooms, free, limit)
  local places, own, all = { left = limit, mixed = #rooms > 0 }, {}, { free, math.huge }
  for i = 1, #rooms, 3 do own[rooms[i]] = { rooms[i + 1], rooms[i + 2] } end
  local function room(lane)
    if not places.mixed then return all end
    if lane > 0 then return own[lane] end
    local best
    for _, one in pairs(own) do
      if not best or one[1] > best[1] then best = one end
    end
    return best
  end
  -- How many more jobs of a lane may be leased.
  function places.more(lane)
    if not places.mixed then return places.left end
    local sum = 0
    for number, one in pairs(own) do
      if lane == 0 then sum = sum + one[1] elseif lane == number then sum = one[1] + one[2] end
    end
    return math.min(places.left, sum)
  end
  local most = {}
  for lane = 0, 2 do most[lane] = places.more(lane) end
  -- How many jobs of a lane a queue's share of the whole claim stands for.
  function places.part(share, lane) return math.ceil(share * most[lane] / limit) end
  function places.at_once(lane) return room(lane)[1] > 0 end
  function places.take(lane)
    local one = room(lane)
    local i = one[1] > 0 and 1 or 2
    one[i] = one[i] - 1
    places.left = places.left - 1
  end
  return places
end

-- The first and the last lane of the jobs in a ready queue; nothing when it is empty.
local function lanes_in(key)
  local last = call('ZREVRANGE', key, 0, 0, 'WITHSCORES')[2]
  if not last then return end
  last = G.lane(tonumber(last))
  if last == 0 then return 0, 0 end
  return G.lane(tonumber(call('ZRANGE', key, 0, 0, 'WITHSCORES')[2])), last
end

-- Take up to `look` ids from the heads of the queues {name, share}: each one's share first, then what is left, in the same
-- order. No more of a bound queue and of a lane than it may give, but for a further look behind those that met a closed
-- guard. Gives their lanes too.
local function heads(open, look, alone, further, places)
  local ids, lanes, room = {}, {}, look
  local taken, of_lane, spans = {}, { [0] = 0, 0, 0 }, {} -- key -> how many of each lane; all of a lane; lanes of a key
  local function most(free)
    return further and free > 0 and math.max(free, SCAN_STEP) or free
  end
  local function add(member, lane, key)
    local n = #ids + 1
    ids[n], lanes[n] = sub(member, 13), lane
    of_lane[lane] = of_lane[lane] + 1
    taken[key][lane] = taken[key][lane] + 1
    room = room - 1
  end
  local function take(queue, count, share)
    local base = at[queue]
    for kind = kREADY, kCANCELLED do G.sound(KEYS[base + kind]) end
    local key = KEYS[base + (alone and kALONE or kREADY)]
    taken[key] = taken[key] or { [0] = 0, 0, 0 }
    local mine = taken[key]
    local have = mine[0] + mine[1] + mine[2]
    if G.bound then count = math.min(count, most(G.room(queue)) - have) end
    if count <= 0 then return end
    if alone then
      for _, member in ipairs(call('ZRANGEBYSCORE', key, '-inf', wall, 'LIMIT', have, count)) do add(member, 0, key) end
      return
    end
    local span = spans[key]
    if not span then
      span = { lanes_in(key) }
      spans[key] = span
    end
    if not span[1] then return end
    local function part(lane)
      local free = math.min(count, most(places.more(lane)) - of_lane[lane])
      return share and math.min(free, places.part(share, lane)) or free
    end
    if span[1] == span[2] then
      local lane = span[1]
      local wanted = span.dry and 0 or part(lane)
      local got = wanted > 0 and call('ZRANGE', key, have, have + wanted - 1) or {}
      for _, member in ipairs(got) do add(member, lane, key) end
      span.dry = span.dry or #got < wanted
      return
    end
    local found = {} -- {level without the lane, member, lane}
    for lane = span[1], span[2] do
      if part(lane) > 0 then
        local got = call('ZRANGEBYSCORE', key, G.lane_from(lane), G.lane_to(lane), 'WITHSCORES', 'LIMIT', mine[lane],
          part(lane))
        for i = 1, #got, 2 do found[#found + 1] = { tonumber(got[i + 1]) - lane * G.LANE, got[i], lane } end
      end
    end
    table.sort(found, function(a, b)
      if a[1] ~= b[1] then return a[1] < b[1] end
      return a[2] < b[2]
    end)
    for i = 1, math.min(count, #found) do add(found[i][2], found[i][3], key) end
  end
  for _, share in ipairs(open) do
    if room <= 0 then break end
    take(share[1], math.min(share[2], room), share[2])
  end
  for _, share in ipairs(open) do
    if room <= 0 then break end
    take(share[1], room)
  end
  for key, mine in pairs(taken) do
    local first = alone and 0 or spans[key] and spans[key][1]
    for lane = 2, 0, -1 do
      local count = mine[lane]
      if count > 0 then
        local start = lane == first and 0 or call('ZCOUNT', key, '-inf', G.lane_to(lane - 1))
        call('ZREMRANGEBYRANK', key, start, start + count - 1)
      end
    end
  end
  return ids, lanes
end

-- A job that this claim leaves goes back to its place.
function G.stand_again(id, job, alone)
  local queue = job[INFO][QUEUE]
  if alone then
    zadd(KEYS[at[queue] + kALONE], job[RUN_AT], spot(id, job))
    lone[queue] = math.min(lone[queue] or job[RUN_AT], job[RUN_AT])
  else
    zadd(KEYS[at[queue] + kREADY], level(job), spot(id, job))
    busy[queue] = true
  end
end

-- A job whose Once key is done ends with the stored result of {id, result}.
local function end_double(id, job, marker, keep)
  if job[EXPIRES_AT] > 0 then zrem(EXPIRING, id) end
  finish(id, job, sDONE, keep)
  hset(REASON, id, 'duplicate of ' .. marker[1])
  if marker[2] == 'null' then job[CANCEL] = NULL elseif marker[2] ~= '' then hset(RESULT, id, marker[2]) end
  save(id)
end

-- want: the list of ARGV, from the place of the worker's id on; see claim.lua. The short form has no guards and bounds.
local function claim(from)
  local worker, limit, alone = ARGV[from], tonumber(ARGV[from + 1]), ARGV[from + 2] == '1'
  local keep, shares = tonumber(ARGV[from + 3]), cmsgpack.unpack(ARGV[from + 4])
  local every = type(shares) == 'string' and shares -- every queue, from the one behind this on
  G.late = tonumber(ARGV[from + 6])
  local lease = call('ZSCORE', LEASES, worker)
  if not lease or tonumber(lease) <= boot then return { 1, -1, {}, 0, {}, {}, {}, {}, '' } end

  local cancels = cancels_of(worker)
  local due_in = G.promote_due(not every and shares, alone)
  if alone then limit = math.min(limit, 1) end
  if limit <= 0 then return { 0, due_in, cancels, 0, {}, {}, {}, {}, every or '' } end

  local guarded = call('HLEN', K.GUARDS) > 0
  local walk = every and G.walk(every, alone)
  local open = walk and walk.more(math.min(limit, G.FEW)) or G.named_queues(shares, alone)
  local first_open = walk and open[1] and open[1][1] or every
  if walk and guarded and not alone then
    local known = {}
    for _, share in ipairs(open) do known[share[1]] = true end
    local waiting = G.queues_waiting()
    for i, pause in ipairs(mget(QUEUES, waiting)) do
      if not known[waiting[i]] and G.is_open(pause) then open[#open + 1] = { waiting[i] } end
    end
  end
  local queues, roomy, visited = {}, {}, {}
  for i, share in ipairs(open) do queues[i] = share[1] end
  if G.bind then G.bind(queues, cmsgpack.unpack(ARGV[from + 7]), limit) end
  local bound = G.bound
  -- A queue that may give nothing would keep what a gate lets through from the others.
  for _, queue in ipairs(queues) do
    if not bound or G.room(queue) > 0 then roomy[#roomy + 1] = queue end
  end
  local places = places_of(alone and {} or cmsgpack.unpack(ARGV[from + 8]), tonumber(ARGV[from + 5]), limit)
  local wide = {} -- lanes that had room when the claim began
  for lane = 0, 2 do
    if places.more(lane) > 0 then wide[#wide + 1] = lane end
  end
  if guarded and not alone then G.let_on(roomy, wide, limit, every) end
  local leases, n, guards_of, finished = {}, 0, {}, {}
  local ran, ran_at = {}, {} -- leased jobs that have run before, so they may have notes; the numbers of their leases
  local fence = math.max(G.number('fence'), micros - 1)
  local first = fence + 1
  local running, recs = into(zadds, RUNNING), into(hsets, REC)
  local owner, pack = worker .. '\0', struct.pack
  local function fresh(flags) return pack('>BBI4I4I4I4I8I8I8', sRUNNING, flags, 0, 0, 0, 0, wall, 0, 0) .. '\0\0' end
  local new, new_held = fresh(0), fresh(HELD_BIT)
  local look, scanned, expired, doubles, unknown = limit, 0, 0, 0, false
  local emptied = {} -- queues that gave something
  if alone and guarded then look = G.ALONE_MAX end

  -- One look at the heads. Gives how many jobs left the ready queues without being leased.
  local function round()
    if every then
      for _, share in ipairs(open) do share[2] = math.max(1, math.floor(places.left / #open)) end
    end
    local ids, lanes = heads(open, look, alone, scanned > 0, places)
    if #ids == 0 then return 0 end
    scanned = scanned + #ids

    local records, bodies, reasons = mget(REC, ids), mget(BODY, ids), {}
    local guards = G.know(ids)
    local seen = {} -- only a job that has a record can have a reason
    for i = 1, #ids do
      if records[i] then seen[#seen + 1] = ids[i] end
    end
    for i, reason in ipairs(mget(REASON, seen)) do reasons[seen[i]] = reason end
    local moved, tails, gone = 0, {}, {}
    for i, id in ipairs(ids) do
      local body, lane = bodies[i], lanes[i]
      local free = places.more(lane) > 0
      local at_once = free and places.at_once(lane)
      local g = guards[i] and G.known[id]
      local tail = body and not records[i] and free and (g or not guards[i]) and tail_of(body, worker, tails)
      local job = not tail and G.opened(id, body, records[i], guards[i])
      if not tail and not job then
        moved = moved + 1 -- an entry that a lost write left behind
      elseif job and job[EXPIRES_AT] > 0 and job[EXPIRES_AT] <= wall then
        jobs[id] = job
        zrem(EXPIRING, id)
        expire(id, job, keep)
        expired = expired + 1
        moved = moved + 1
        finished[#finished + 1] = id
      else
        local queue = tail and tail.queue or job[INFO][QUEUE]
        local why, what, opens_at
        if not free or bound and not G.lets_through(queue, at_once) then
          why = 'later'
        elseif g then
          why, what, opens_at = G.refuse(id, g, at_once)
          if why ~= 'later' and G.let[id] then G.went_on = true end
        end
        if why then
          job = job or born(body) -- one that does not go on goes the long way
          jobs[id] = job
          if why == 'later' or why == 'wait' and alone then
            G.stand_again(id, job, alone)
          else
            if why == 'wait' then
              G.block(id, job, what)
              if opens_at then G.opens[what] = opens_at end
            else
              end_double(id, job, what, keep)
              doubles = doubles + 1
              finished[#finished + 1] = id
            end
            moved = moved + 1
          end
        else
          fence = fence + 1
          local record, told
          if tail then
            record = (at_once and new or new_held) .. sub(body, 7, 12) .. sub(body, -12) .. tail.text .. pack('>I8', fence)
            told = at_once and '' or 'h'
            tail.count = tail.count + 1
            if g then jobs[id] = false end -- it may have been put back in its place and waits no more
          else
            if job[EXPIRES_AT] > 0 then zrem(EXPIRING, id) end
            job[STATE] = sRUNNING
            job[HELD] = not at_once or nil
            job[FENCE] = fence
            job[WORKER] = worker
            job[STARTED] = wall
            jobs[id] = job
            record = written(job)
            told = record
            gone[queue] = (gone[queue] or 0) + 1
            if records[i] then ran[#ran + 1], ran_at[#ran_at + 1] = id, n / 4 end
          end
          if g then
            G.takes(id, g)
            guards_of[#guards_of + 1] = n / 4
            guards_of[#guards_of + 1] = guards[i]
          end
          if bound then G.take(queue) end
          places.take(lane)
          unknown = unknown or lane == 0
          local c = #recs
          recs[c + 1] = id
          recs[c + 2] = record
          local r = #running
          running[r + 1] = '0'
          running[r + 2] = owner .. id
          leases[n + 1] = id
          leases[n + 2] = told
          leases[n + 3] = body
          leases[n + 4] = reasons[id] or ''
          n = n + 4
        end
      end
    end
    for _, tail in pairs(tails) do
      if tail then gone[tail.queue] = (gone[tail.queue] or 0) + tail.count end
    end
    for _, share in ipairs(open) do share[2] = math.max(0, share[2] - (gone[share[1]] or 0)) end
    for queue, count in pairs(gone) do
      count_more('claimed:' .. queue, count)
      emptied[queue] = true
    end
    return moved
  end

  while places.left > 0 do
    local moved = round()
    if places.left <= 0 or alone then break end
    if scanned >= SCAN_MAX then
      due_in = 0
      break
    end
    if moved > 0 then
      look = math.min(SCAN_MAX, math.max(places.left, SCAN_STEP, look * 2))
    else
      -- These have nothing more: on to others.
      for _, share in ipairs(open) do visited[#visited + 1] = share end
      open = walk and walk.more(math.min(places.left, G.FEW)) or {}
      if #open == 0 then break end
      if bound then
        local more = {}
        for i, share in ipairs(open) do more[i] = share[1] end
        G.bind(more, cmsgpack.unpack(ARGV[from + 7]), limit)
      end
      look = places.left
    end
  end
  for _, share in ipairs(open) do visited[#visited + 1] = share end
  if n > 0 then hset(META, 'fence', fence) end
  -- Which kind of slot the jobs of an unknown lane need shows only now: there may be room for more.
  if unknown and places.mixed then
    for _, lane in ipairs(wide) do
      if places.more(lane) <= 0 then due_in = 0 end
    end
  end
  -- Only ended ones were at the head, or they had something at a gate, where this claim has passed by who waits.
  if n == 0 and #finished > 0 or guarded and expired > 0 then due_in = 0 end
  count_more('total:cancelled', expired)
  count_more('total:done', doubles)
  flush(true)
  if guarded then
    local opens_in = G.close_gates(places.left <= 0)
    if opens_in and (due_in < 0 or opens_in < due_in) then due_in = opens_in end
  elseif bound then
    for gate, meter in pairs(G.meters) do G.write_meter(gate, meter) end
  end
  -- What is left behind of a lane that is full now, or that was and got jobs that have just come due, is for another
  -- worker that may be idle.
  local function has(list, lane)
    for _, one in ipairs(list) do
      if one == lane then return true end
    end
  end
  for lane = alone and 3 or 0, 2 do
    local was_wide = has(wide, lane)
    for _, share in ipairs(places.more(lane) <= 0 and visited or {}) do
      local queue = share[1]
      if (was_wide or G.promoted[queue] and G.promoted[queue][lane])
        and call('ZCOUNT', KEYS[at[queue] + kREADY], G.lane_from(lane), G.lane_to(lane)) > 0
        and not (bound and G.room(queue) <= 0) then
        G.rouse(queue, lane)
        break
      end
    end
  end
  for _, share in ipairs(visited) do
    if emptied[share[1]] then G.has_some(share[1], alone) end
  end
  local paced_in = bound and G.unbind()
  if walk and not walk.ended then G.rouse(walk.last) end -- others may have something, and another worker room
  if paced_in and (due_in < 0 or paced_in < due_in) then due_in = paced_in end
  local notes_of = {}
  for i, notes in ipairs(#ran > 0 and G.notes_of(ran) or {}) do
    if #notes > 0 then notes_of[#notes_of + 1], notes_of[#notes_of + 2] = ran_at[i], notes end
  end
  return { 0, due_in, cancels, first, leases, guards_of, notes_of, finished,
    walk and (walk.ended and first_open or walk.last) or '' }
end
