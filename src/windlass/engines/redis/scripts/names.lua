-- Every queue by name, and what came and went.
--
-- KEYS     fixed
-- ARGV     none
-- Returns  wall-clock ms, names, {field of FLOW, count, ...}
-- Cost     O(queues)

return { wall, call('HKEYS', QUEUES), call('HGETALL', FLOW) }
