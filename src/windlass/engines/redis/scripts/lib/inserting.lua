-- Storing jobs: insert if absent by id. Most jobs of a batch share a spec (lib/specs.lua), so it is taken apart once.

local specs = {}

local function spec_of(text)
  local spec = specs[text]
  if spec then return spec end
  spec = G.read_spec(text)
  local base = at[spec.queue]
  spec.list = into(zadds, KEYS[base + (spec.ready and kREADY or kDUE)])
  G.sound(KEYS[base + kREADY])
  G.sound(KEYS[base + kDUE])
  specs[text] = spec
  return spec
end

-- Specs come in runs, since most of a batch are alike: spec, how many in a row have it, ...
local function plans_of(runs)
  for i = 1, #runs, 2 do runs[i] = spec_of(runs[i]) end
  return runs
end

-- Whether a job, whose body this is, has ended in its queue and its record was to stay until now.
local function is_past(body, id)
  local good, head = pcall(function() return cmsgpack.unpack(string.sub(body, 15, 14 + struct.unpack('>H', body, 13))) end)
  if not good or type(head) ~= 'table' or type(head[1]) ~= 'string' then return false end
  local base = at[head[1]]
  for _, kind in ipairs({ kDONE, kCANCELLED }) do
    local score = call('ZSCORE', KEYS[base + kind], id)
    if score and tonumber(score) % G.KEPT <= wall then return true end
  end
  return false
end

-- list[first] on: the ids, then the bodies; `runs` are what plans_of gives; `unique` when no id is there twice; `guarded`
-- when G.admit (lib/admitting.lua) has the guards of these jobs. Gives one "0" (stored) or "1" (duplicate) for each job,
-- and how many jobs were ever stored; nothing, and nothing is written, when a unique key says so. With `look` gives false
-- and ids, and nothing is written, where something is in the way of which time has made something else: a record past its
-- time, an expired holder of a unique key. Then lapse.lua is to be called first.
local function insert(list, first, runs, unique, guarded, look)
  local n, chosen = 0, {}
  for i = 1, #runs, 2 do
    if runs[i].caller then
      for j = n + 1, n + runs[i + 1] do chosen[#chosen + 1] = list[first + j - 1] end
    end
    n = n + runs[i + 1]
  end
  local ids = {}
  for i = 1, n do ids[i] = list[first + i - 1] end
  local known = mget(BODY, ids)
  local taken = {}
  for i, until_ms in ipairs(zscores(TOMBS, chosen)) do
    if until_ms and tonumber(until_ms) > wall then taken[chosen[i]] = true end
  end
  local lapsed = look and {}
  if guarded then G.new.lapsed = lapsed end
  for i = 1, look and n or 0 do
    if known[i] and is_past(known[i], ids[i]) then lapsed[#lapsed + 1] = ids[i] end
  end
  local count = 0
  for i = 1, n do
    local id = ids[i]
    if known[i] or taken[id] then
      known[i] = true
    elseif guarded and G.yields(i, id) then
      known[i] = true
    else
      count = count + 1
      if not unique then taken[id] = true end
    end
  end
  if look and #lapsed > 0 then return false, lapsed end
  if guarded and G.new.raised then return end
  G.sound_all()
  -- The first write. A full server refuses it, and then nothing was stored.
  local last = G.raise(META, 'seq', count, G.last_seq)
  local bodies, arrivals = into(hsets, BODY), into(zadds, ARRIVALS)
  local seq, m, at_body = last - count, 0, first + n - 1
  local answers, i = {}, 0
  for r = 1, #runs, 2 do
    local spec = runs[r]
    local index, score = spec.list, spec.score
    local k, before = #index, m
    for j = i + 1, i + runs[r + 1] do
      if known[j] then
        answers[j] = '1'
      else
        seq = seq + 1
        local id = ids[j]
        local body, entry = G.laid_out(spec, id, list[at_body + j], seq)
        bodies[m + 1] = id
        bodies[m + 2] = body
        arrivals[m + 1] = seq
        arrivals[m + 2] = id
        m = m + 2
        if not (guarded and G.store(j, id, body)) then
          index[k + 1] = score
          index[k + 2] = entry
          k = k + 2
        end
        answers[j] = '0'
        if spec.expires_at then zadd(EXPIRING, spec.expires_at, id) end
      end
    end
    i = i + runs[r + 1]
    spec.count = (spec.count or 0) + (m - before) / 2
  end
  for _, spec in pairs(specs) do
    local count = spec.count or 0
    spec.count = nil
    if count > 0 then
      count_more('arrived:' .. spec.queue, count)
      if spec.ready then
        busy[spec.queue] = true
        G.rouse(spec.queue, spec.lane)
      else
        soonest[spec.queue] = math.min(soonest[spec.queue] or spec.run_at, spec.run_at)
      end
    end
  end
  if guarded then G.admitted(list, at_body) end
  return table.concat(answers), last
end
