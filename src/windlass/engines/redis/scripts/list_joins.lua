-- uses: records guards
-- A page of joins, by id.
--
-- KEYS     fixed
-- ARGV     4 what their ids begin with  5 the id behind which the page begins, or ""  6 how many at most
-- Returns  {ids}, what JOINS has of each
-- Cost     O(page)

local prefix, cursor = 'j\0' .. ARGV[4], ARGV[5]
local from = cursor == '' and '[' .. prefix or '(j\0' .. cursor
local ids = {}
for i, entry in ipairs(call('ZRANGEBYLEX', K.TIED, from, '[' .. prefix .. '\255\255\255\255', 'LIMIT', 0, tonumber(ARGV[6]))) do
  ids[i] = string.sub(entry, 3)
end
return { ids, mget(K.JOINS, ids) }
