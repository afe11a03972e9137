-- Every registered worker.
--
-- KEYS     fixed
-- ARGV     none
-- Returns  time of the lease clock, {record, end of lease, jobs held, ...}
-- Cost     O(workers log running)

local leases = call('ZRANGE', LEASES, 0, -1, 'WITHSCORES')
local reply = {}
for i = 1, #leases, 2 do
  local worker = leases[i]
  local record = call('HGET', WORKERS, worker)
  if record then
    reply[#reply + 1] = record
    reply[#reply + 1] = tonumber(leases[i + 1])
    reply[#reply + 1] = call('ZLEXCOUNT', RUNNING, '[' .. worker .. '\0', '(' .. worker .. '\1')
  end
end
return { boot, reply }
