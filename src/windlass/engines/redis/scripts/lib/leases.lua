-- Leases: places at gates that tokens have. Those of runs are members of HOLDS (guards.lua); both count alike.
--
-- LOCKS       field of a gate -> {token, fence, until, since, owner, ...}; one whose lease is over has no place
-- A lock's field is its key; that of another gate is the gate, behind a NUL. So locks are where they have always been.

local LEASE = 5 -- values each

function G.lease_field(gate)
  local key = string.sub(gate, 6)
  return string.sub(gate, 1, 5) == 'lock:' and key ~= '' and string.byte(key) ~= 0 and key or '\0' .. gate
end

function G.gate_of_lease(field)
  return string.byte(field) == 0 and string.sub(field, 2) or 'lock:' .. field
end

-- Leases in a text: a list of {token, fence, until, since, owner}. What is none is left out.
function G.leases_in(text)
  local flat, found = G.unpacked(text, '*') or {}, {}
  for i = 1, #flat, LEASE do
    if type(flat[i]) == 'string' and G.is_number(flat[i + 1]) and G.is_number(flat[i + 2]) and G.is_number(flat[i + 3])
      and type(flat[i + 4]) == 'string' then
      found[#found + 1] = { flat[i], flat[i + 1], flat[i + 2], flat[i + 3], flat[i + 4] }
    end
  end
  return found
end

function G.leases(gate)
  if G.any_lease == nil then G.any_lease = call('HLEN', K.LOCKS) > 0 end
  return G.any_lease and G.leases_in(call('HGET', K.LOCKS, G.lease_field(gate))) or {}
end

function G.keep_leases(gate, leases)
  local flat = {}
  for _, one in ipairs(leases) do
    for i = 1, LEASE do flat[#flat + 1] = one[i] end
  end
  local field = G.lease_field(gate)
  if #flat == 0 then call('HDEL', K.LOCKS, field) else call('HSET', K.LOCKS, field, cmsgpack.pack(flat)) end
  G.any_lease = nil
end

-- Let a lease of those at a gate end so many ms from now. Where that is sooner than before, the gate is looked at sooner.
function G.prolong(gate, leases, one, ms)
  local before = one[3]
  one[3] = boot + ms
  G.keep_leases(gate, leases)
  if one[3] < before then call('ZADD', K.GATES, 'XX', 'LT', one[3], gate) end
end

-- Places that are taken at a gate, and when the lease of a token ends as the first of all, or nil.
function G.taken(gate)
  local count, ends = G.count(K.HOLDS, gate), nil
  for _, one in ipairs(G.leases(gate)) do
    if one[3] > boot then
      count = count + 1
      if not ends or one[3] < ends then ends = one[3] end
    end
  end
  return count, ends
end

-- Give back the place of a token at a gate, or with nil those of all tokens and probes; gives whether there was one.
function G.release(gate, token)
  local kept, released = {}, false
  for _, one in ipairs(G.leases(gate)) do
    if token and one[1] ~= token then kept[#kept + 1] = one else released = true end
  end
  if released then G.keep_leases(gate, kept) end
  local probes = not token and string.sub(gate, 1, 8) == 'circuit:'
  for _, member in ipairs(probes and call('ZRANGEBYLEX', K.HOLDS, '[' .. gate .. '\0', '(' .. gate .. '\1') or {}) do
    call('ZREM', K.HOLDS, member)
    released = true
  end
  if released then G.open(gate, 0) end
  return released
end
