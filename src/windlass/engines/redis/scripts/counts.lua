-- Jobs by state, and totals since the store was made.
--
-- KEYS     fixed; every queue
-- ARGV     none
-- Returns  ready, scheduled, running, done, dead, cancelled, blocked, jobs ever stored, {total name, value, ...}
-- Cost     O(queues)

local ready, scheduled, done, cancelled = 0, 0, 0, 0
for _, queue in ipairs(names) do
  local base = at[queue]
  local due, alone = KEYS[base + kDUE], KEYS[base + kALONE]
  local came = call('ZCOUNT', due, '-inf', wall) + call('ZCOUNT', alone, '-inf', wall)
  ready = ready + call('ZCARD', KEYS[base + kREADY]) + came
  scheduled = scheduled + call('ZCARD', due) + call('ZCARD', alone) - came
  done = done + call('ZCARD', KEYS[base + kDONE])
  cancelled = cancelled + call('ZCARD', KEYS[base + kCANCELLED])
end
return { ready, scheduled, call('ZCARD', RUNNING), done, call('ZCARD', DEAD), cancelled,
  call('ZCARD', K.BLOCKED), tonumber(call('HGET', META, 'seq') or 0), call('HGETALL', TOTALS) }
