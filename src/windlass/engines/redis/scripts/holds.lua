-- uses: records guards leases holding
-- Every hold at the gates that begin so.
--
-- KEYS     fixed
-- ARGV     4 what they begin with; none: only the count
-- Returns  count of releases so far, {gate, owner, fence, since, ms left or "", waiting, job or "", ...}
-- Cost     O(leases + holds at those gates log stored)

local reply, prefix = {}, ARGV[4]
local function tell(...)
  for _, value in ipairs({ ... }) do reply[#reply + 1] = value end
end
local all = prefix and call('HGETALL', K.LOCKS) or {}
for i = 1, #all, 2 do
  local gate = G.gate_of_lease(all[i])
  if string.sub(gate, 1, #prefix) == prefix then
    for _, one in ipairs(G.leases_in(all[i + 1])) do
      tell(gate, one[5], one[2], one[4], one[3] - boot, #G.line(gate), '')
    end
  end
end
for _, member in ipairs(prefix and call('ZRANGEBYLEX', K.HOLDS, '[' .. prefix, '+') or {}) do
  if string.sub(member, 1, #prefix) ~= prefix then break end
  local gate, id = string.match(member, '^(.-)%z(.*)$')
  if gate then load({ id }) end
  local job = gate and jobs[id]
  if job then tell(gate, '', job[FENCE], job[STARTED], '', #G.line(gate), id) end
end
return { G.number('unlocks'), reply }
