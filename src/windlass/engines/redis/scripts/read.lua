-- Documents by key.
--
-- KEYS     fixed
-- ARGV     4... keys
-- Returns  version, value ("" with version 0 for none) for each
-- Cost     O(keys)

local reply = {}
for i, packed in ipairs(mget(DOCUMENTS, tail(ARGV, 4))) do
  local one = G.unpacked(packed, 'nns')
  local there = one and (one[2] == 0 or one[2] > wall)
  reply[2 * i - 1] = there and one[1] or 0
  reply[2 * i] = there and one[3] or ''
end
return reply
