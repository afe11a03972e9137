-- Judging circuits, whose documents and rules are those of core/circuit.py: how one stands, and how many probes it lets on.
-- What becomes of one is decided there alone. Probes are holds.

local STAGGER_MS, STEPS_MAX = 100, 16

G.CIRCUIT_STATES = { closed = true, open = true, half_open = true }
-- The document in a text, or a new one.
local function circuit_in(text)
  local good, it = pcall(cjson.decode, text)
  if not good or type(it) ~= 'table' then it = {} end
  it.state, it.half_open, it.successes = it.state or 'closed', it.half_open or 1, it.successes or 0
  good = G.CIRCUIT_STATES[it.state] and G.is_number(it.half_open) and it.half_open >= 1 and G.is_number(it.successes)
    and G.is_number(it.since or 0) and G.is_number(it.open_until or 0)
  return good and it or { state = 'closed', half_open = 1, successes = 0 }
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
