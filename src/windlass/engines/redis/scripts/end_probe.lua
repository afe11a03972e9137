-- uses: records guards
-- Give back the place of a probe that was leased by a token.
--
-- KEYS     fixed
-- ARGV     4 gate  5 token
-- Returns  nothing
-- Cost     O(probes)

local rest = {}
local all = G.pairs_of(call('HGET', K.PROBES, ARGV[4]))
for i = 1, #all, 2 do
  if all[i + 1] > boot and all[i] ~= ARGV[5] then rest[#rest + 1], rest[#rest + 2] = all[i], all[i + 1] end
end
if #rest == 0 then call('HDEL', K.PROBES, ARGV[4]) else call('HSET', K.PROBES, ARGV[4], cmsgpack.pack(rest)) end
G.open(ARGV[4], 0)
finish_script()
return {}
