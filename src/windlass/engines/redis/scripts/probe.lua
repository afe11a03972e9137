-- uses: records guards circuits
-- Ask to go through a circuit.
--
-- KEYS     fixed
-- ARGV     4 name  5 token  6 lease in ms  7 id of a running job or ""  8 its fence
-- Returns  a row of lib/circuits.lua
-- Cost     O(probes)

allow_growth()
local name, token, id = ARGV[4], ARGV[5], ARGV[7]
local doc = G.circuit(name)
if G.state(doc) == 'closed' then return { G.circuit_row(name) } end
local gate, job = 'circuit:' .. name, nil
if id ~= '' then
  load({ id })
  job = jobs[id]
  if not (job and job[STATE] == sRUNNING and job[FENCE] == tonumber(ARGV[8])) then job = nil end
end
local admitted, live = false, G.outside(name)
if job then
  admitted = call('ZSCORE', K.HOLDS, gate .. '\0' .. id) and true or false
else
  for i = 1, #live, 2 do admitted = admitted or live[i] == token end
end
if not admitted and G.probes_free(doc, G.on_their_way(name)) > 0 then
  admitted = true
  if job then
    call('ZADD', K.HOLDS, 0, gate .. '\0' .. id)
  else
    live[#live + 1] = token
    live[#live + 1] = boot + tonumber(ARGV[6])
  end
end
G.keep_outside(name, live)
local changed
if admitted and doc.state == 'open' then
  changed = 'open'
  G.turn(doc, 'half_open')
  G.keep_circuit(name)
end
return { G.circuit_row(name, changed, admitted) }
