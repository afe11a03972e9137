-- Try to take a lock, or keep a place in its line.
--
-- KEYS     fixed
-- ARGV     4 key  5 token  6 lease in ms  7 owner  8 ms to keep a place, 0 for none
-- Returns  fence or -1, ms the holder's lease has left, owner, count of releases so far
-- Cost     O(line)

allow_growth()
local key, token, lease, keep = ARGV[4], ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[8])
local seen = G.number('unlocks')
local text = call('HGET', K.LOCKS, key)
local held = G.unpacked(text, 'snnns') -- token, fence, until, since, owner
if held and held[1] == token then
  held[3] = boot + lease
  call('HSET', K.LOCKS, key, cmsgpack.pack(held))
  return { held[2], 0, '', seen }
end
local line, mine = {}, false
text = call('HGET', K.LINES, key)
local all = G.pairs_of(text)
for i = 1, #all, 2 do
  if all[i + 1] > boot then
    line[#line + 1] = all[i]
    line[#line + 1] = all[i + 1]
  end
end
local fence = -1
if (not held or held[3] <= boot) and (not line[1] or line[1] == token) then
  fence = math.max(G.number('fence') + 1, micros, held and held[2] + 1 or 0)
  call('HSET', META, 'fence', string.format('%.0f', fence))
  call('HSET', K.LOCKS, key, cmsgpack.pack({ token, fence, boot + lease, wall, ARGV[7] }))
  if line[1] == token then line = tail(line, 3) end
elseif keep > 0 then
  for i = 1, #line, 2 do
    if line[i] == token then line[i + 1], mine = boot + keep, true end
  end
  if not mine then
    line[#line + 1] = token
    line[#line + 1] = boot + keep
  end
end
if #line == 0 then call('HDEL', K.LINES, key) else call('HSET', K.LINES, key, cmsgpack.pack(line)) end
return { fence, held and math.max(0, held[3] - boot) or 0, held and held[5] or '', seen }
