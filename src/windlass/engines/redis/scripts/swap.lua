-- Write a document if it still has the version that the caller saw. Versions come from one counter, so one is never
-- given twice, also when a key comes back.
--
-- KEYS     fixed
-- ARGV     4 key  5 version (0: there is none)  6 ms until it is over, or -1  7 value; without it the key is removed
-- Returns  the new version, 0 when it was removed, -1 when it has another version
-- Cost     O(log documents + those that are over)

-- The highest version that a document has.
function G.last_version()
  local last = 0
  for _, packed in ipairs(call('HVALS', DOCUMENTS)) do
    local one = G.unpacked(packed, 'nns')
    last = math.max(last, one and one[1] or 0)
  end
  return last
end

for _, key in ipairs(call('ZRANGEBYSCORE', DOCUMENTS_OVER, '-inf', wall, 'LIMIT', 0, 100)) do
  call('HDEL', DOCUMENTS, key)
  call('ZREM', DOCUMENTS_OVER, key)
end
local key, ttl = ARGV[4], tonumber(ARGV[6])
local packed = call('HGET', DOCUMENTS, key)
local one = G.unpacked(packed, 'nns')
if one and one[2] > 0 and one[2] <= wall then one = nil end
if (one and one[1] or 0) ~= tonumber(ARGV[5]) then return { -1 } end
if not ARGV[7] then
  call('HDEL', DOCUMENTS, key)
  call('ZREM', DOCUMENTS_OVER, key)
  return { 0 }
end
local version = G.raise(META, 'document', 1, G.last_version)
local over = ttl >= 0 and wall + ttl or 0
call('HSET', DOCUMENTS, key, cmsgpack.pack({ version, over, ARGV[7] }))
if over > 0 then call('ZADD', DOCUMENTS_OVER, over, key) else call('ZREM', DOCUMENTS_OVER, key) end
return { version }
