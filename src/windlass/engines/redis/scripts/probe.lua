-- uses: records guards leases holding circuits
-- Ask to go through a circuit.
--
-- KEYS     fixed
-- ARGV     4 name  5 token  6 lease in ms  7 id of a running job or ""  8 its fence
-- Returns  a row of lib/circuits.lua
-- Cost     O(probes)

allow_growth()
local name = ARGV[4]
local doc = G.circuit(name)
if G.state(doc) == 'closed' then return { G.circuit_row(name) } end
local fence = G.hold('circuit:' .. name, ARGV[5], G.places(doc), tonumber(ARGV[6]), '', 0, ARGV[7], tonumber(ARGV[8]))
local admitted = fence >= 0
local changed
if admitted and doc.state == 'open' then
  changed = 'open'
  G.turn(doc, 'half_open')
  G.keep_circuit(name)
end
return { G.circuit_row(name, changed, admitted) }
