-- uses: records guards
-- Take a place for a probe of a circuit, for a running job or leased by a token.
--
-- KEYS     fixed
-- ARGV     4 gate  5 token  6 how many may be taken at once  7 lease in ms  8 id of a running job or ""  9 its fence
-- Returns  1 when it has one
-- Cost     O(probes)

allow_growth()
local gate, token, id = ARGV[4], ARGV[5], ARGV[8]
local job
if id ~= '' then
  load({ id })
  job = jobs[id]
  if not (job and job[STATE] == sRUNNING and job[FENCE] == tonumber(ARGV[9])) then job = nil end
end
local live, mine = {}, false
local all = G.pairs_of(call('HGET', K.PROBES, gate))
for i = 1, #all, 2 do
  if all[i + 1] > boot then
    live[#live + 1], live[#live + 2] = all[i], all[i + 1]
    mine = mine or all[i] == token
  end
end
if job then mine = call('ZSCORE', K.HOLDS, gate .. '\0' .. id) and true or false end
if not mine then
  if G.count(K.HOLDS, gate) + #live / 2 >= tonumber(ARGV[6]) then return { 0 } end
  if job then
    call('ZADD', K.HOLDS, 0, gate .. '\0' .. id)
  else
    live[#live + 1], live[#live + 2] = token, boot + tonumber(ARGV[7])
    call('HSET', K.PROBES, gate, cmsgpack.pack(live))
  end
end
return { 1 }
