-- Release a lock, or leave its line; tell those who wait.
--
-- KEYS     fixed
-- ARGV     4 key  5 token, or "" for whoever holds it
-- Returns  "1" when it was held
-- Cost     O(line)

allow_growth()
local key, token = ARGV[4], ARGV[5]
local text = call('HGET', K.LOCKS, key)
local held = G.unpacked(text, 'snnns')
local good = text and not held and token == '' or held and (token == '' or held[1] == token)
if good then call('HDEL', K.LOCKS, key) end
text = token ~= '' and call('HGET', K.LINES, key)
if text then
  local line = {}
  local all = G.pairs_of(text)
  for i = 1, #all, 2 do
    if all[i] ~= token then
      line[#line + 1] = all[i]
      line[#line + 1] = all[i + 1]
    end
  end
  if #line == 0 then call('HDEL', K.LINES, key) else call('HSET', K.LINES, key, cmsgpack.pack(line)) end
end
pcall(G.raise, META, 'unlocks', 1)
redis.pcall('PUBLISH', K.LOCKS, key)
return { good and 1 or 0 }
