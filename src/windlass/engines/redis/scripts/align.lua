-- Give all members of the indexes that are read by their bytes the one score that this needs.
--
-- KEYS     fixed
-- ARGV     none
-- Returns  how many had another one
-- Cost     O(those log stored)

local wrong = 0
for _, key in ipairs({ RUNNING, CANCELS, DIED, BUSY, K.BLOCKED, K.HOLDS, K.CARRIERS, K.TIED }) do
  for _, range in ipairs({ { '-inf', '(0' }, { '(0', '+inf' } }) do
    for _, member in ipairs(call('ZRANGEBYSCORE', key, range[1], range[2], 'LIMIT', 0, CHUNK)) do
      call('ZADD', key, 0, member)
      wrong = wrong + 1
    end
  end
end
return { wrong }
