-- uses: records guards leases document circuits judging
-- Every limit that a running or a waiting job has.
--
-- KEYS     fixed
-- ARGV     4 how many at most
-- Returns  {kind, key, used, limit or -1, window in ms, waiting, ...}
-- Cost     O(holds + gates that are waited at + rates)

G.late = 0
local known, order = {}, {}
local function know(guard)
  local has = G.KINDS[guard[1]]
  if (has == 'places' or has == 'window') and not known[guard[2]] then
    known[guard[2]] = guard
    order[#order + 1] = guard[2]
  end
end
local function learn(id)
  local g = G.of(id)
  for _, guard in ipairs(g and g[1] or {}) do know(guard) end
end
for _, member in ipairs(call('ZRANGE', K.HOLDS, 0, tonumber(ARGV[4]))) do learn(string.match(member, '%z(.*)$') or '') end
local from = '-'
for _ = 1, tonumber(ARGV[4]) do
  local member = call('ZRANGEBYLEX', K.BLOCKED, from, '+', 'LIMIT', 0, 1)[1]
  if not member then break end
  local gate = string.match(member, '^(.-)%z') or member
  learn(G.id_at(member, gate))
  from = '(' .. gate .. '\1'
end
for _, gate in ipairs(call('HKEYS', K.RATES)) do
  if string.sub(gate, 1, 5) == 'rate:' then know({ 'rate', gate, 0, 0, -1, 0 }) end
end
table.sort(order)
local reply = {}
for i = 1, math.min(#order, tonumber(ARGV[4])) do
  local gate = order[i]
  local guard = known[gate]
  local used = 0
  if G.KINDS[guard[1]] == 'places' then
    used = G.held_at(gate)
  elseif guard[3] > 0 then
    used = math.max(0, (guard[5] >= 0 and guard[5] or guard[3]) - G.room_of(G.meter(guard), 0))
  end
  local waiting = G.count(K.BLOCKED, gate)
  for _, value in ipairs({ guard[1], string.sub(gate, #guard[1] + 2), used, guard[3] > 0 and guard[3] or -1, guard[4],
    waiting }) do
    reply[#reply + 1] = value
  end
end
return { reply }
