-- uses: records guards reviving
-- Make dead jobs ready by a rule, the longest dead first, and count one more recovery of each.
--
-- KEYS     fixed
-- ARGV     4 ms from the death on  5 how often a job may come back  6 how many at most  7... error types
-- Returns  mark, ids
-- Cost     O(error types * how often + jobs log stored)

allow_growth()
local before, most, limit = wall - tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local found = {}
for i = 7, #ARGV do
  for recoveries = 0, before >= 0 and most - 1 or -1 do
    local group = ARGV[i] .. '\0' .. struct.pack('>I2', recoveries)
    local size = #group
    local last = '(' .. group .. struct.pack('>I8', before + 1)
    for _, member in ipairs(call('ZRANGEBYLEX', DIED, '[' .. group, last, 'LIMIT', 0, limit)) do
      found[#found + 1] = { string.sub(member, size + 1, size + 8), string.sub(member, size + 9), recoveries, member, ARGV[i] }
    end
  end
end
table.sort(found, function(a, b)
  if a[1] ~= b[1] then return a[1] < b[1] end
  return a[2] < b[2]
end)
local ids = {}
for i = 1, math.min(limit, #found) do ids[i] = found[i][2] end
load(ids)
local taken = {}
for i, id in ipairs(ids) do
  local job = jobs[id]
  local mine = job and job[STATE] == sDEAD and death_spot(id, job, found[i][5], recoveries_of(id))
  if mine ~= found[i][4] then
    zrem(DIED, found[i][4]) -- an entry that a lost write left behind
  elseif revive(id, job) then
    hset(RECOVERIES, id, found[i][3] + 1)
    taken[#taken + 1] = id
  end
end
return { finish_marked(), taken }
