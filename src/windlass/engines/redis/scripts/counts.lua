-- uses: records guards running
-- Jobs by state, and totals since the store was made.
--
-- KEYS     fixed
-- ARGV     none
-- Returns  ready, scheduled, running, done, dead, cancelled, blocked, held, jobs ever stored, {total name, value, ...};
--          held ones are among the running
-- Cost     O(queues + running + counts)

local ready, scheduled, done, cancelled = 0, 0, 0, 0
for _, queue in ipairs(call('HKEYS', QUEUES)) do
  local base = at[queue]
  local due, alone = KEYS[base + kDUE], KEYS[base + kALONE]
  local came = call('ZCOUNT', due, '-inf', wall) + call('ZCOUNT', alone, '-inf', wall)
  ready = ready + call('ZCARD', KEYS[base + kREADY]) + came
  scheduled = scheduled + call('ZCARD', due) + call('ZCARD', alone) - came
  done = done + call('ZCARD', KEYS[base + kDONE])
  cancelled = cancelled + call('ZCARD', KEYS[base + kCANCELLED])
end
local held = 0
for _, count in pairs(select(2, running_by_queue())) do held = held + count end
-- TOTALS is what processes of the version before have counted since the last upkeep.
local totals, flat = {}, {}
local function add(name, value) totals[name] = (totals[name] or 0) + (tonumber(value) or 0) end
for _, field in ipairs(call('HKEYS', COUNTS)) do
  local name = string.match(field, '^%d+:total:(.*)$')
  if name then add(name, call('HGET', COUNTS, field)) end
end
for _, name in ipairs(call('HKEYS', TOTALS)) do add(name, call('HGET', TOTALS, name)) end
for name, value in pairs(totals) do
  flat[#flat + 1] = name
  flat[#flat + 1] = value
end
return { ready, scheduled, call('ZCARD', RUNNING), done, call('ZCARD', DEAD), cancelled,
  call('ZCARD', K.BLOCKED), held, G.number('seq'), flat }
