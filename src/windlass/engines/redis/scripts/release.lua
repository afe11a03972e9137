-- uses: records guards leases holding
-- Give a place at a gate back, or leave its line; tell those who wait.
--
-- KEYS     fixed
-- ARGV     4 gate  5 token, or "" for all tokens and probes
-- Returns  "1" when one was held
-- Cost     O(leases + line); O(holds at the gate) for all

allow_growth()
local gate, token = ARGV[4], ARGV[5]
local released = G.release(gate, token ~= '' and token or nil)
if token ~= '' then G.keep_line(gate, G.line(gate), token) end
if released then finish_script() end
pcall(G.raise, META, 'unlocks', 1)
redis.pcall('PUBLISH', K.LOCKS, gate)
return { released and 1 or 0 }
