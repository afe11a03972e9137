-- Upkeep of COUNTS. A field is "minute:series", a series "KIND:WHAT"; minute 0 is all that was before. A field goes in the
-- step that adds it up, so two who do this lose nothing and count nothing twice.

-- Give what a field of another hash counts to a field of COUNTS; what is no count is dropped.
function G.hand_over(from, field, to)
  local n = tonumber(call('HGET', from, field))
  local sound = n and n > 0 and n < G.NUMBER_MAX
  if not sound or not to or pcall(G.raise, COUNTS, to, n) then call('HDEL', from, field) end
end

-- Add up or forget the minutes that need not stay apart, and minutes to come, which a clock that stepped back has left
-- behind. `keeps` is {kind, minutes before the present one that stay, series that takes the sum or "", ...}; the kind
-- itself stands for each series by itself. Gives how many went, at most `budget`.
function G.fold(keeps, budget)
  local present, gone = math.floor(wall / 60000), 0
  local minutes, into = {}, {}
  for i = 1, #keeps, 3 do minutes[keeps[i]], into[keeps[i]] = keeps[i + 1], keeps[i + 2] end
  for _, field in ipairs(redis.pcall('HKEYS', COUNTS)) do
    local minute, series, kind = string.match(field, '^(%d+):(([^:]*):.*)$')
    minute = tonumber(minute)
    if gone < budget and minute and minute > 0 and minutes[kind] and math.abs(present - minute) > minutes[kind] then
      gone = gone + 1
      G.hand_over(COUNTS, field, into[kind] ~= '' and '0:' .. (into[kind] == kind and series or into[kind]))
    end
  end
  return gone
end

-- What processes of the version before may still count: TOTALS by name, FLOW by "a" (arrived) or "c" (claimed), time in
-- steps of ten seconds, and queue.
function G.take_over()
  for _, name in ipairs(redis.pcall('HKEYS', TOTALS)) do G.hand_over(TOTALS, name, '0:total:' .. name) end
  for _, field in ipairs(redis.pcall('HKEYS', FLOW)) do
    local what, step, queue = string.match(field, '^([ac])(%d+):(.*)$')
    local kind = what == 'a' and 'arrived:' or 'claimed:'
    G.hand_over(FLOW, field, what and G.minute_of(tonumber(step) * 10000) .. kind .. queue)
  end
end
