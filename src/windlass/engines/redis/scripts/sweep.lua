-- uses: records guards
-- Look at entries of one index for jobs that are not there, or not in that state; take them out when asked.
--
-- KEYS     fixed
-- ARGV     4 "1" to repair  5 number of the index among KEYS, or of the kind among those of the queue in ARGV[2]  6 where the id begins in a member; 0: after a NUL
--          7 states that belong there, as a text of digits  8... members
-- Returns  how many were wrong
-- Cost     O(members log stored)

local key = KEYS[tonumber(ARGV[5]) + (names[1] and at[names[1]] or 0)]
local cut, states = tonumber(ARGV[6]), ARGV[7]
local members = tail(ARGV, 8)
local ids = {}
for i, member in ipairs(members) do
  ids[i] = cut == 0 and string.match(member, '%z(.*)$') or string.sub(member, cut)
end
load(ids)
local wrong = 0
for i, id in ipairs(ids) do
  local job = jobs[id]
  if not job or not string.find(states, tostring(job[STATE]), 1, true) then
    wrong = wrong + 1
    if ARGV[4] == '1' then zrem(key, members[i]) end
  end
end
flush()
return { wrong }
