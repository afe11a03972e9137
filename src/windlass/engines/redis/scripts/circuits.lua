-- uses: records guards leases circuits
-- Circuits as they stand.
--
-- KEYS     fixed
-- ARGV     4... names; none: every circuit that the store knows
-- Returns  rows of lib/circuits.lua
-- Cost     O(circuits)

local rows = {}
local wanted = tail(ARGV, 4)
if #wanted == 0 then wanted = call('HKEYS', K.CIRCUITS) end
for i, name in ipairs(wanted) do rows[i] = G.circuit_row(name) end
return { rows }
