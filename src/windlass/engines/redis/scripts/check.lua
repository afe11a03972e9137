-- The types of our keys, to find one that something else has written.
--
-- KEYS     fixed
-- ARGV     none
-- Returns  a type name a key, "none" for one that is not there
-- Cost     O(keys)

local types = {}
for i, key in ipairs(KEYS) do types[i] = call('TYPE', key).ok end
return types
