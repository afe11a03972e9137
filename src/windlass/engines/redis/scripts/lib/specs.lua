-- What is stored of a new job, made of three texts: its id, its body without times and place, and its spec. A spec is
-- "queue number|level|due|front|expires|caller id|shift", the level bearing the lane, due being "+delay" or an absolute time.

function G.last_seq()
  return tonumber(call('ZREVRANGE', ARRIVALS, 0, 0, 'WITHSCORES')[2] or 0)
end

function G.read_spec(text)
  local number, level, sign, due, front, expires, caller, shift =
    string.match(text, '^(%d+)|(%-?%d+)|([+=])(%-?%d+)|(%d)|(%-?%d+)|(%d)|(%-?%d+)$')
  local run_at = math.max(0, sign == '+' and wall + tonumber(due) or tonumber(due))
  local place = front == '1' and -wall or run_at + tonumber(shift)
  local ready = run_at <= wall
  expires = tonumber(expires)
  return {
    queue = names[tonumber(number)],
    lane = G.lane(tonumber(level)),
    ready = ready,
    score = ready and level or run_at,
    prefix = ready and '' or struct.pack('>i8', tonumber(level)),
    times = struct.pack('>I6I6', wall, run_at),
    place = struct.pack('>I6', place_at(place)),
    run_at = run_at,
    expires_at = expires >= 0 and run_at + expires or nil,
    caller = caller == '1',
  }
end

-- The whole body of a job, and its entry among those that wait in its queue.
function G.laid_out(spec, id, body, seq)
  local order = spec.place .. struct.pack('>I6', seq)
  return spec.times .. body .. order, spec.prefix .. order .. id
end
