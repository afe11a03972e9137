-- How many jobs of each queue are leased, and how many of these are only held. Counted when somebody asks, never kept as a number, so nothing can leak.

local function running_by_queue()
  local found, ahead, from = {}, {}, '-'
  while true do
    local held = call('ZRANGEBYLEX', RUNNING, from, '+', 'LIMIT', 0, CHUNK)
    if #held == 0 then return found, ahead end
    local ids = {}
    for i, member in ipairs(held) do ids[i] = string.match(member, '%z(.*)$') or '' end
    for _, record in ipairs(mget(REC, ids)) do
      local high, low = string.byte(record or '', bHEAD_SIZE, bHEAD_SIZE + 1)
      local head = low and head_of(sub(record, FORMAT_SIZE + 1, FORMAT_SIZE + high * 256 + low))
      local queue = head and head[QUEUE]
      if queue then found[queue] = (found[queue] or 0) + 1 end
      if queue and string.byte(record, 2) >= HELD_BIT then ahead[queue] = (ahead[queue] or 0) + 1 end
    end
    from = '(' .. held[#held]
  end
end
