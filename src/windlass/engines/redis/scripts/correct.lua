-- bare
-- Replace or remove the value of a field, if it still has that value.
--
-- KEYS     a hash
-- ARGV     1 field  2 value that it has  3 value in its place; without it the field is removed
-- Returns  1 when that was done
-- Cost     O(1)

if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
if ARGV[3] then redis.call('HSET', KEYS[1], ARGV[1], ARGV[3]) else redis.call('HDEL', KEYS[1], ARGV[1]) end
return 1
