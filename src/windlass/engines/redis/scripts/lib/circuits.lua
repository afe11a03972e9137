-- Judging circuits, whose documents and rules are those of core/circuit.py: how one stands, and how many probes it lets on.
-- What becomes of one is decided there alone. Probes are holds.

local STAGGER_MS, STEPS_MAX = 100, 16

G.CIRCUIT_STATES = { closed = true, open = true, half_open = true }
-- Fields of a document: what stands for one that is left out, and the least that it may be, nil for any number.
G.CIRCUIT_NUMBERS = { epoch = { 0, 0 }, since = { nil }, open_until = { nil }, half_open = { 1, 1 }, successes = { 0, 0 },
  slice_ms = { 3000, 1 } }

local function is_whole(value, least)
  return G.is_number(value) and value == math.floor(value) and (not least or value >= least)
end

local function is_circuit(it)
  if not G.CIRCUIT_STATES[it.state] or type(it.reason) ~= 'string' or type(it.by_hand) ~= 'boolean' then return false end
  for name, rule in pairs(G.CIRCUIT_NUMBERS) do
    if it[name] == nil then it[name] = rule[1] end
    if it[name] ~= nil and not is_whole(it[name], rule[2]) then return false end
  end
  if type(it.slices) ~= 'table' then return false end
  for _, one in pairs(it.slices) do
    if type(one) ~= 'table' or not (is_whole(one[1]) and is_whole(one[2], 0) and is_whole(one[3], 0)) then return false end
  end
  return true
end

-- The document in a text, or a new one.
local function circuit_in(text)
  local good, found = pcall(cjson.decode, text)
  local it = { state = 'closed', by_hand = false, reason = '', slices = {} }
  for name, value in pairs(good and type(found) == 'table' and found or {}) do
    if value ~= cjson.null then it[name] = value end
  end
  return is_circuit(it) and it or { state = 'closed', half_open = 1, successes = 0 }
end

-- The circuit of a gate as it stands.
function G.circuit(gate)
  G.circuits = G.circuits or {}
  local it = G.circuits[gate]
  if not it then
    local version, text = G.document(call('HGET', DOCUMENTS, gate))
    it = circuit_in(version > 0 and text or '{}')
    if it.state == 'open' and it.open_until and boot >= it.open_until then it.state, it.successes = 'half_open', 0 end
    G.circuits[gate] = it
  end
  return it
end

-- How many more probes a circuit lets on that is not closed.
function G.probes_free(gate, it)
  return (it.state == 'half_open' and it.half_open - it.successes or 0) - G.held_at(gate)
end

-- How many waiters a closed circuit lets on by now.
function G.lets_on(it)
  return it.half_open * 2 ^ math.min(math.floor(math.max(0, boot - (it.since or 0)) / STAGGER_MS), STEPS_MAX)
end

-- When the waiters of a circuit that lets none on are to be looked at; nil: when a hold is released.
function G.looks_again_at(gate, it)
  if it.state == 'open' then return it.open_until end
  return G.ends[gate]
end
