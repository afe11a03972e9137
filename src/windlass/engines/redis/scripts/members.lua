-- uses: records guards
-- A page of the members of a join, by id.
--
-- KEYS     fixed
-- ARGV     4 join  5 the id behind which the page begins, or ""  6 how many at most
-- Returns  {ids}, how each has ended: a digit, as a state in a record
-- Cost     O(page)

local prefix = 'm\0' .. ARGV[4] .. '\0'
local from = ARGV[5] == '' and '[' .. prefix or '(' .. prefix .. ARGV[5]
local ids, fields = {}, {}
for i, entry in ipairs(call('ZRANGEBYLEX', K.TIED, from, '(m\0' .. ARGV[4] .. '\1', 'LIMIT', 0, tonumber(ARGV[6]))) do
  ids[i], fields[i] = string.sub(entry, #prefix + 1), string.sub(entry, 3)
end
return { ids, mget(K.JOINS, fields) }
