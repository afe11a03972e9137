-- Keys of documents that begin so, in order.
--
-- KEYS     fixed
-- ARGV     4 prefix  5 how many at most
-- Returns  keys
-- Cost     O(documents)

local prefix, found = ARGV[4], {}
local all = call('HGETALL', DOCUMENTS)
for i = 1, #all, 2 do
  if string.sub(all[i], 1, #prefix) == prefix then
    local over = (G.unpacked(all[i + 1], 'nns') or { 0, 1 })[2]
    if over == 0 or over > wall then found[#found + 1] = all[i] end
  end
end
table.sort(found)
local keys = {}
for i = 1, math.min(#found, tonumber(ARGV[5])) do keys[i] = found[i] end
return keys
