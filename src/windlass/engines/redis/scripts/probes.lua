-- uses: records guards
-- How many probes are on their way.
--
-- KEYS     fixed
-- ARGV     4... gates
-- Returns  a number for each
-- Cost     O(gates + probes)

local reply = {}
for i, gate in ipairs(tail(ARGV, 4)) do
  local count = G.count(K.HOLDS, gate)
  local all = G.pairs_of(call('HGET', K.PROBES, gate))
  for j = 2, #all, 2 do
    if all[j] > boot then count = count + 1 end
  end
  reply[i] = count
end
return reply
