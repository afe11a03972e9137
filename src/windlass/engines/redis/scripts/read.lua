-- uses: document
-- Documents by key.
--
-- KEYS     fixed
-- ARGV     4... keys
-- Returns  the time, and version, value ("" with version 0 for none) for each
-- Cost     O(keys)

local reply = { boot }
for i, packed in ipairs(mget(DOCUMENTS, tail(ARGV, 4))) do
  reply[2 * i], reply[2 * i + 1] = G.document(packed)
end
return reply
