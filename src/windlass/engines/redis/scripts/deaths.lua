-- Some of the dead jobs and what they died of. A walk sees each job that stays dead at least once.
--
-- KEYS     fixed
-- ARGV     4 where to go on; "0" to begin  5 about how many
-- Returns  where to go on ("0" at the end), {id, ms of its death, cause or "", job name, ...}
-- Cost     O(how many)

local step = call('ZSCAN', DEAD, ARGV[4], 'COUNT', ARGV[5])
local ids, reply = {}, {}
for i = 1, #step[2], 2 do ids[#ids + 1] = step[2][i] end
local causes, bodies = mget(CAUSE, ids), mget(BODY, ids)

-- The name is the first text behind the head of a body: a short string, or one with a length of a byte or two.
local function name_of(body)
  local start = 16 + (struct.unpack('>H', body, 13)) -- behind the head, and the mark of the list
  local kind = string.byte(body, start) or 0
  if kind >= 0xa0 and kind <= 0xbf then return string.sub(body, start + 1, start + kind - 0xa0) end
  if kind == 0xd9 and #body > start then return string.sub(body, start + 2, start + 1 + string.byte(body, start + 1)) end
  if kind == 0xda and #body > start + 1 then return string.sub(body, start + 3, start + 2 + (struct.unpack('>H', body, start + 1))) end
  return ''
end

for i, id in ipairs(ids) do
  if bodies[i] and #bodies[i] >= 26 then
    local n = #reply
    reply[n + 1], reply[n + 2] = id, step[2][2 * i]
    reply[n + 3], reply[n + 4] = causes[i] or '', name_of(bodies[i])
  end
end
return { step[1], reply }
