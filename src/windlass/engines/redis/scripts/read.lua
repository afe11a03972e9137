-- uses: swapping
-- Documents by key.
--
-- KEYS     fixed
-- ARGV     4... keys
-- Returns  version, value ("" with version 0 for none) for each
-- Cost     O(keys)

local reply = {}
for i, packed in ipairs(mget(DOCUMENTS, tail(ARGV, 4))) do
  reply[2 * i - 1], reply[2 * i] = G.document(packed)
end
return reply
