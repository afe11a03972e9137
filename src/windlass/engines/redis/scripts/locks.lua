-- Every lock that is held.
--
-- KEYS     fixed
-- ARGV     none
-- Returns  count of releases so far, {key, owner, fence, since, ms left, waiting, ...}
-- Cost     O(locks + lines)

local reply = {}
local all = call('HGETALL', K.LOCKS)
for i = 1, #all, 2 do
  local held = cmsgpack.unpack(all[i + 1])
  local waiting = 0
  local text = call('HGET', K.LINES, all[i])
  local line = text and cmsgpack.unpack(text) or {}
  for j = 2, #line, 2 do
    if line[j] > boot then waiting = waiting + 1 end
  end
  for _, value in ipairs({ all[i], held[5], held[2], held[4], held[3] - boot, waiting }) do
    reply[#reply + 1] = value
  end
end
return { tonumber(call('HGET', META, 'unlocks') or 0), reply }
