-- Renew locks that their tokens still hold.
--
-- KEYS     fixed
-- ARGV     4 lease in ms  5... key, token, ...
-- Returns  one "1" (held) or "0" a lock
-- Cost     O(locks)

allow_growth()
local answers = {}
for i = 5, #ARGV, 2 do
  local text = call('HGET', K.LOCKS, ARGV[i])
  local held = G.unpacked(text, 'snnns')
  local good = held and held[1] == ARGV[i + 1]
  if good then
    held[3] = boot + tonumber(ARGV[4])
    call('HSET', K.LOCKS, ARGV[i], cmsgpack.pack(held))
  end
  answers[#answers + 1] = good and '1' or '0'
end
return { table.concat(answers) }
