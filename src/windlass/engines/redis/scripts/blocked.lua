-- uses: records guards
-- Where jobs are blocked, and how many of each queue: one page.
--
-- KEYS     fixed
-- ARGV     4 from where on, as ZRANGEBYLEX has it; 5 how many pairs of gate and queue at most
-- Returns  from where on the next page is or '', {gate, queue, jobs, ms that the job at the head has been due, ...}
-- Cost     O(log(blocked)) a pair

local from, reply = ARGV[4], {}
for _ = 1, tonumber(ARGV[5]) do
  local member = call('ZRANGEBYLEX', K.BLOCKED, from, '+', 'LIMIT', 0, 1)[1]
  if not member then
    from = ''
    break
  end
  local gate, queue = string.match(member, '^(.-)%z(.-)%z')
  if gate then
    local place = gate .. '\0' .. queue
    local id = G.id_at(member, gate)
    load({ id })
    local due = jobs[id] and wall - jobs[id][RUN_AT] or 0
    for _, value in ipairs({ gate, queue, G.count(K.BLOCKED, place), due }) do reply[#reply + 1] = value end
    from = '(' .. place .. '\1'
  else
    from = '(' .. member
  end
end
return { from, reply }
