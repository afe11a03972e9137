-- Every queue by name.
--
-- KEYS     fixed
-- ARGV     none
-- Returns  names
-- Cost     O(queues)

return call('HKEYS', QUEUES)
