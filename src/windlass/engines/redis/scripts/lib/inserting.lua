-- Storing jobs: insert if absent by id. Each job is three texts: id, body without its times and place, and a spec.
-- A spec is "queue number|level|due|front|expires|caller id|shift", due being "+delay" or an absolute time; most jobs of a
-- batch share one, so it is taken apart once.

local specs = {}

local function spec_of(text)
  local spec = specs[text]
  if spec then return spec end
  local number, level, sign, due, front, expires, caller, shift =
    string.match(text, '^(%d+)|(%-?%d+)|([+=])(%-?%d+)|(%d)|(%-?%d+)|(%d)|(%-?%d+)$')
  local queue = names[tonumber(number)]
  local run_at = math.max(0, sign == '+' and wall + tonumber(due) or tonumber(due))
  local place = front == '1' and -wall or run_at + tonumber(shift)
  local base = at[queue]
  expires = tonumber(expires)
  spec = {
    queue = queue,
    ready = run_at <= wall,
    list = into(zadds, KEYS[base + (run_at <= wall and kREADY or kDUE)]),
    score = run_at <= wall and level or run_at,
    prefix = run_at <= wall and '' or struct.pack('>i8', tonumber(level)),
    times = struct.pack('>I6I6', wall, run_at),
    place = struct.pack('>I6', place_at(place)),
    run_at = run_at,
    expires_at = expires >= 0 and run_at + expires or nil,
    caller = caller == '1',
  }
  call('ZCARD', KEYS[base + (run_at <= wall and kREADY or kDUE)]) -- another type must show before the first write
  specs[text] = spec
  return spec
end

-- list[from...]: id, body, spec, id, body, spec, ... Gives one "0" (stored) or "1" (duplicate) for each, and how many
-- jobs were ever stored.
local function insert(list, from)
  local ids, chosen = {}, {}
  local n = 0
  for i = from, #list, 3 do
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
  local answers, taken, count = {}, {}, 0
  for i = 1, n do
    local id = ids[i]
    if known[i] or taken[id] or buried[id] or jobs[id] then
      answers[i] = '1'
    else
      answers[i] = '0'
      taken[id] = true
      count = count + 1
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
      local id, at_list = ids[i], from + 3 * i - 3
      local spec = specs[list[at_list + 2]]
      local order = spec.place .. pack('>I6', seq)
      bodies[m + 1] = id
      bodies[m + 2] = spec.times .. list[at_list + 1] .. order
      arrivals[m + 1] = seq
      arrivals[m + 2] = id
      m = m + 2
      local index = spec.list
      local k = #index
      index[k + 1] = spec.score
      index[k + 2] = spec.prefix .. order .. id
      spec.used = true
      spec.count = (spec.count or 0) + 1
      if spec.expires_at then zadd(EXPIRING, spec.expires_at, id) end
    end
  end
  for _, spec in pairs(specs) do
    if spec.count then count_flow('a', spec.queue, spec.count) end
    spec.count = nil
    if spec.used and spec.ready then
      woken[spec.queue] = true
    elseif spec.used then
      soonest[spec.queue] = math.min(soonest[spec.queue] or spec.run_at, spec.run_at)
    end
  end
  return table.concat(answers), last
end
