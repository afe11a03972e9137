-- What was counted, minute by minute.
--
-- KEYS     fixed
-- ARGV     4 how many minutes before the present one  5... what series begin with
-- Returns  wall-clock ms, {minute, series, count, ...}
-- Cost     O(counts)

local present = math.floor(wall / 60000)
local first, reply = math.max(1, present - tonumber(ARGV[4])), {}
for _, field in ipairs(call('HKEYS', COUNTS)) do
  local text, series = string.match(field, '^(%d+):(.*)$')
  local minute = tonumber(text)
  for i = 5, minute and minute >= first and minute <= present and #ARGV or 0 do
    if string.sub(series, 1, #ARGV[i]) == ARGV[i] then
      local n = #reply
      reply[n + 1], reply[n + 2], reply[n + 3] = minute, series, call('HGET', COUNTS, field)
    end
  end
end
return { wall, reply }
