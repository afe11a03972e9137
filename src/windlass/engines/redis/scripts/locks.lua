-- Every lock that is held.
--
-- KEYS     fixed
-- ARGV     none
-- Returns  count of releases so far, {key, owner, fence, since, ms left, waiting, ...}
-- Cost     O(locks + lines)

local reply = {}
local all = call('HGETALL', K.LOCKS)
for i = 1, #all, 2 do
  local held = G.unpacked(all[i + 1], 'snnns') or { '', 0, boot, 0, '' }
  local waiting = 0
  local text = call('HGET', K.LINES, all[i])
  local line = G.pairs_of(text)
  for j = 2, #line, 2 do
    if line[j] > boot then waiting = waiting + 1 end
  end
  for _, value in ipairs({ all[i], held[5], held[2], held[4], held[3] - boot, waiting }) do
    reply[#reply + 1] = value
  end
end
return { G.number('unlocks'), reply }
