-- Circuits: one document each in CIRCUITS, msgpack; see engines/sqlite/circuits.py, whose rules these are. Half-open is
-- not written when its time comes: the first probe writes it down. Probes are holds.

local SLICES = 20

G.CIRCUIT_STATES = { closed = true, open = true, half_open = true }
-- The document in a text, or nil.
function G.circuit_in(text)
  local doc = G.unpacked(text, '*')
  if not doc or not G.CIRCUIT_STATES[doc.state] or type(doc.reason) ~= 'string' or type(doc.slices) ~= 'table' then return nil end
  for _, name in ipairs({ 'epoch', 'since', 'wall', 'open_until', 'half_open', 'successes', 'by_hand', 'slice_ms' }) do
    if not G.is_number(doc[name]) then return nil end
  end
  for _, one in ipairs(doc.slices) do
    if type(one) ~= 'table' or not (G.is_number(one[1]) and G.is_number(one[2]) and G.is_number(one[3])) then return nil end
  end
  return doc.slice_ms > 0 and doc.wall <= 253402300799999 and doc or nil
end

function G.circuit(name)
  G.docs = G.docs or {}
  if not G.docs[name] then
    local text = call('HGET', K.CIRCUITS, name)
    G.docs[name] = G.circuit_in(text) or {
      state = 'closed', epoch = 0, since = -1, wall = -1, open_until = -1, half_open = 1, successes = 0, reason = '',
      by_hand = 0, slices = {}, slice_ms = 3000,
    }
  end
  return G.docs[name]
end

function G.keep_circuit(name)
  call('HSET', K.CIRCUITS, name, cmsgpack.pack(G.docs[name]))
end

function G.state(doc)
  if doc.state == 'open' and doc.open_until >= 0 and boot >= doc.open_until then return 'half_open' end
  return doc.state
end

-- How many probes may be on their way.
function G.places(doc)
  if G.state(doc) ~= 'half_open' then return 0 end
  return doc.half_open - (doc.state == 'half_open' and doc.successes or 0)
end

function G.window(doc)
  local first, calls, failures = math.floor(boot / doc.slice_ms) - SLICES, 0, 0
  for _, one in ipairs(doc.slices) do
    if one[1] > first then
      calls = calls + one[2] + one[3]
      failures = failures + one[3]
    end
  end
  return calls, failures
end

function G.turn(doc, state)
  doc.state, doc.epoch, doc.since, doc.wall = state, doc.epoch + 1, boot, wall
  doc.successes, doc.slices, doc.open_until, doc.by_hand = 0, {}, -1, 0
end

function G.close_circuit(name, doc)
  G.turn(doc, 'closed')
  doc.reason = ''
  G.release('circuit:' .. name)
  G.open('circuit:' .. name, 0)
end

-- name, state, epoch, since, ms left or -1, reason, by hand, calls, failures, successes, probes, waiting, state before
-- or "", admitted
function G.circuit_row(name, changed, admitted)
  local doc = G.circuit(name)
  local state = G.state(doc)
  local calls, failures = 0, 0
  if state == 'closed' then calls, failures = G.window(doc) end
  local left = state == 'open' and doc.open_until >= 0 and math.max(0, doc.open_until - boot) or -1
  return {
    name, state, doc.epoch, doc.wall, left, state == 'closed' and '' or doc.reason, doc.by_hand, calls, failures,
    doc.successes, state == 'closed' and 0 or G.taken('circuit:' .. name), G.count(K.BLOCKED, 'circuit:' .. name),
    changed or '', (admitted or state == 'closed') and 1 or 0,
  }
end
