-- The next ids of a listing, newest first. A state that few jobs are in is read from its index, any other by arrival.
--
-- KEYS     fixed
-- ARGV     4 sequence number to start below, or "+inf"  5 how many  6 state or ""  7 queue or ""
--          8 size up to which an index is read and sorted  9... only these ids
-- Returns  {id, sequence number, ...}, "1" when there may be more
-- Cost     O(log stored + count), or O(size log size)

local below, count, state, only, size = ARGV[4], tonumber(ARGV[5]), ARGV[6], ARGV[7], tonumber(ARGV[8])

local indexes, total_size = {}, 0
local function index(key, cut)
  indexes[#indexes + 1] = { key, cut }
  total_size = total_size + call('ZCARD', key)
end

for _, queue in ipairs(only ~= '' and { only } or state ~= '' and call('HKEYS', QUEUES) or {}) do
  do
    local base = at[queue]
    if state == 'done' then
      index(KEYS[base + kDONE], 1)
    elseif state == 'cancelled' then
      index(KEYS[base + kCANCELLED], 1)
    elseif state == 'scheduled' or state == 'ready' then
      index(KEYS[base + kREADY], 13)
      index(KEYS[base + kDUE], 21)
      index(KEYS[base + kALONE], 13)
    end
  end
end
if state == 'dead' then index(DEAD, 1) end
if state == 'running' then index(RUNNING, 0) end
if state == 'blocked' then index(K.BLOCKED, -1) end

if not ARGV[9] and (state == '' or total_size > size) then
  local found = call('ZREVRANGEBYSCORE', ARRIVALS, below == '+inf' and below or '(' .. below, '-inf', 'WITHSCORES',
    'LIMIT', 0, count)
  return { found, #found == 2 * count and 1 or 0 }
end

local ids = tail(ARGV, 9)
for _, one in ipairs(ids[1] and {} or indexes) do
  for _, member in ipairs(call('ZRANGE', one[1], 0, -1)) do
    ids[#ids + 1] = one[2] < 0 and string.sub(string.match(member, '^.-%z.-%z(.*)$') or '', 21) or one[2] == 0 and string.match(member, '%z(.*)$') or string.sub(member, one[2])
  end
end
local found, limit = {}, below == '+inf' and math.huge or tonumber(below)
for i, seq in ipairs(zscores(ARRIVALS, ids)) do
  seq = tonumber(seq or 0)
  if seq > 0 and seq < limit then found[#found + 1] = { seq, ids[i] } end
end
table.sort(found, function(a, b) return a[1] > b[1] end)
local page = {}
for i = 1, math.min(count, #found) do
  page[2 * i - 1] = found[i][2]
  page[2 * i] = found[i][1]
end
return { page, #found > count and 1 or 0 }
