-- Taking places at gates, and waiting in line for one; see engines/sqlite/holds.py, whose rules these are.
--
-- LINES       field of a gate (leases.lua) -> {token, until, ...}, in the order of their coming

function G.line(gate)
  local all, line = G.pairs_of(call('HGET', K.LINES, G.lease_field(gate))), {}
  for i = 1, #all, 2 do
    if all[i + 1] > boot then line[#line + 1] = { all[i], all[i + 1] } end
  end
  return line
end

-- Keep a line without a token.
function G.keep_line(gate, line, without)
  local flat = {}
  for _, one in ipairs(line) do
    if one[1] ~= without then
      flat[#flat + 1] = one[1]
      flat[#flat + 1] = one[2]
    end
  end
  local field = G.lease_field(gate)
  if #flat == 0 then call('HDEL', K.LINES, field) else call('HSET', K.LINES, field, cmsgpack.pack(flat)) end
end

-- The fence of a run, if a job runs under it and has a guard at the gate: there it gives its place back when it stops.
function G.run_at(gate, id, fence)
  if id == '' then return nil end
  load({ id })
  local job, g = jobs[id], G.of(id)
  if not (job and job[STATE] == sRUNNING and job[FENCE] == fence) then return nil end
  for _, guard in ipairs(g and g[1] or {}) do
    if guard[2] == gate then return fence end
  end
end

-- Take one of the places at a gate or renew it, else take a place in the line for `keep` ms. Gives the fence or -1, ms
-- that the lease has left which ends first, and whose it is.
function G.hold(gate, token, places, lease, owner, keep, id, fence)
  local run = G.run_at(gate, id, fence)
  if run and call('ZSCORE', K.HOLDS, gate .. '\0' .. id) then return run, 0, '' end
  local leases, count = G.leases(gate), G.taken(gate)
  for _, one in ipairs(run and {} or leases) do
    if one[1] == token and (one[3] > boot or count == 0 and places > 0) then
      G.prolong(gate, leases, one, lease)
      return one[2], 0, ''
    end
  end
  local line = G.line(gate)
  if count < places and (not line[1] or line[1][1] == token) then
    local live, above = {}, 0
    for _, one in ipairs(leases) do
      above = math.max(above, one[2])
      if one[3] > boot then live[#live + 1] = one end
    end
    G.keep_line(gate, line, token)
    if run then
      call('ZADD', K.HOLDS, 0, gate .. '\0' .. id)
    else
      run = math.max(G.number('fence') + 1, micros, above + 1)
      call('HSET', META, 'fence', string.format('%.0f', run))
      live[#live + 1] = { token, run, boot + lease, wall, owner }
    end
    G.keep_leases(gate, live)
    return run, 0, ''
  end
  if keep > 0 then
    local mine = false
    for _, one in ipairs(line) do
      if one[1] == token then one[2], mine = boot + keep, true end
    end
    if not mine then line[#line + 1] = { token, boot + keep } end
  end
  G.keep_line(gate, line)
  table.sort(leases, function(a, b) return a[3] < b[3] end)
  local left, who = 0, leases[1] and leases[1][5] or ''
  for i = #leases, 1, -1 do
    if leases[i][3] > boot then left, who = leases[i][3] - boot, leases[i][5] end
  end
  return -1, left, who
end
