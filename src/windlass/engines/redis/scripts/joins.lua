-- uses: records guards
-- Joins by id.
--
-- KEYS     fixed
-- ARGV     4... ids
-- Returns  what JOINS has of each (lib/joining.lua), or nothing
-- Cost     O(ids)

return mget(K.JOINS, tail(ARGV, 4))
