-- uses: records guards
-- Register or renew a worker.
--
-- KEYS     fixed
-- ARGV     4 worker  5 what it says of itself (JSON)  6 lease in ms  7 key of its inbox
-- Returns  mark, "1" when the store knew the worker, time of the lease clock, {id, fence, cancel, ...} that it holds,
--          what it was asked to do
-- Cost     O(held + log workers)

allow_growth()
local worker = ARGV[4]
local known = call('ZSCORE', LEASES, worker)
local reply = {}
for _, id in ipairs(held_by(worker, -1)) do
  local job = jobs[id]
  reply[#reply + 1] = id
  reply[#reply + 1] = job[FENCE]
  reply[#reply + 1] = job[CANCEL]
end
zadd(LEASES, boot + tonumber(ARGV[6]), worker)
local record = call('HGET', WORKERS, worker)
local asked = (G.unpacked(record, 'nsss') or {})[4] or ''
hset(WORKERS, worker, cmsgpack.pack({ wall, ARGV[7], ARGV[5], asked }))
return { finish_marked(), known and 1 or 0, boot, reply, asked }
