-- uses: records guards leases holding
-- Try to take a place at a gate, or a place in its line.
--
-- KEYS     fixed
-- ARGV     4 gate  5 token  6 places  7 lease in ms  8 owner  9 ms to keep a place in the line, 0 for none
--          10 id of a running job or ""  11 its fence
-- Returns  fence or -1, ms that the lease has left which ends first, its owner, count of releases so far
-- Cost     O(leases + line)

allow_growth()
local seen = G.number('unlocks')
local fence, left, owner = G.hold(ARGV[4], ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8], tonumber(ARGV[9]),
  ARGV[10], tonumber(ARGV[11]))
return { fence, left, owner, seen }
