-- Writing documents by compare-and-set. Swaps are judged before anything is written. Each is four arguments: key, version (0:
-- there is none), ms until it is over (-1: never; "": the document is removed), value. Versions come from one counter,
-- so one is never given twice, also when a key comes back.

-- The highest version that a document has.
function G.last_version()
  local last = 0
  for _, packed in ipairs(call('HVALS', DOCUMENTS)) do
    local one = G.unpacked(packed, 'nns')
    last = math.max(last, one and one[1] or 0)
  end
  return last
end

local CLOCK_SLACK_MS = 1000 -- as in core/model.py

-- Whether one of the swaps list[first + 1] to list[last] meets another version than it names; each sees those before it.
-- list[first] is the time that they were decided for, or "". Then, or if they have `lost` for another reason, gives the
-- documents as they stand: version, value of each.
function G.lost(list, first, last, lost)
  local made, clock = {}, tonumber(list[first])
  lost = lost or clock and math.abs(boot - clock) > CLOCK_SLACK_MS
  for i = first + 1, last, 4 do
    local key = list[i]
    if (made[key] or G.document(call('HGET', DOCUMENTS, key))) ~= tonumber(list[i + 1]) then lost = true end
    made[key] = list[i + 2] == '' and 0 or -1 -- nobody can know the version that it is given
  end
  if not lost then return nil end
  local stand = {}
  for i = first + 1, last, 4 do
    stand[#stand + 1], stand[#stand + 2] = G.document(call('HGET', DOCUMENTS, list[i]))
  end
  return stand
end

-- Write the documents, and forget some that are over. Gives the version of each, 0 for one that was removed.
function G.swap(list, first, last)
  local versions = {}
  for i = first + 1, last, 4 do
    local key, ttl, version, over = list[i], tonumber(list[i + 2]), 0, 0
    if ttl then
      version = G.raise(META, 'document', 1, G.last_version)
      over = ttl >= 0 and wall + ttl or 0
      call('HSET', DOCUMENTS, key, cmsgpack.pack({ version, over, list[i + 3] }))
    else
      call('HDEL', DOCUMENTS, key)
    end
    if over > 0 then call('ZADD', DOCUMENTS_OVER, over, key) else call('ZREM', DOCUMENTS_OVER, key) end
    versions[#versions + 1] = version
  end
  for _, key in ipairs(call('ZRANGEBYSCORE', DOCUMENTS_OVER, '-inf', wall, 'LIMIT', 0, 100)) do
    call('HDEL', DOCUMENTS, key)
    call('ZREM', DOCUMENTS_OVER, key)
  end
  return versions
end
