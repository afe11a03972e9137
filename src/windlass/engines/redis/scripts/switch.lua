-- uses: records guards leases circuits
-- Open or close a circuit by hand.
--
-- KEYS     fixed
-- ARGV     4 name  5 "1" to open  6 for how many ms, or -1  7 reason  8 half-open probes
-- Returns  a row of lib/circuits.lua
-- Cost     O(probes)

allow_growth()
local name, gate = ARGV[4], 'circuit:' .. ARGV[4]
local doc = G.circuit(name)
local before = G.state(doc)
if ARGV[5] == '1' then
  G.turn(doc, 'open')
  doc.by_hand, doc.half_open, doc.reason = 1, tonumber(ARGV[8]), ARGV[7]
  G.release(gate)
  call('ZREM', K.GATES, gate)
  if tonumber(ARGV[6]) >= 0 then
    doc.open_until = boot + tonumber(ARGV[6])
    G.open(gate, doc.open_until)
  end
elseif before ~= 'closed' then
  G.close_circuit(name, doc)
end
G.keep_circuit(name)
finish_script()
local after = G.state(doc)
return { G.circuit_row(name, after ~= before and before or nil) }
