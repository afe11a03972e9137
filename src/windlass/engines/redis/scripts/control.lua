-- Ask one worker, or all workers of a group, to do something.
--
-- KEYS     fixed
-- ARGV     4 id of a worker or group  5 the word
-- Returns  mark, how many were asked
-- Cost     O(workers)

allow_growth()
local target, word = ARGV[4], ARGV[5]
local all = call('HGETALL', WORKERS)
local count = 0
for i = 1, #all, 2 do
  local record = G.unpacked(all[i + 1], 'nsss') or { wall, '', '', '' }
  local good, info = pcall(cjson.decode, record[3])
  if all[i] == target or (good and type(info) == 'table' and info.group == target) then
    local asked = record[4] or ''
    if not string.find(' ' .. asked .. ' ', ' ' .. word .. ' ', 1, true) then
      record[4] = asked == '' and word or (asked .. ' ' .. word)
      hset(WORKERS, all[i], cmsgpack.pack(record))
    end
    count = count + 1
  end
end
return { finish_marked(), count }
