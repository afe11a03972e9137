-- uses: records guards leases circuits
-- Count calls that ended; open, close or reopen a circuit.
--
-- KEYS     fixed
-- ARGV     4 name  5 failures to open or -1  6 window in ms  7 ms to stay open  8 half-open probes  9 least calls
--          10 failure rate or -1  11 ok  12 failed  13 epoch  14 probe or ""  15 Retry-After in ms  16 reason
-- Returns  a row of lib/circuits.lua
-- Cost     O(slices + probes)

allow_growth()
local name, ok, failed, probe = ARGV[4], tonumber(ARGV[11]), tonumber(ARGV[12]), ARGV[14]
local doc = G.circuit(name)
if probe ~= '' then G.release('circuit:' .. name, probe) end
if tonumber(ARGV[13]) ~= doc.epoch then
  finish_script()
  return { G.circuit_row(name) }
end
local before = doc.state
doc.half_open = tonumber(ARGV[8])

local function trip()
  G.turn(doc, 'open')
  doc.open_until = boot + math.max(tonumber(ARGV[7]), tonumber(ARGV[15]))
  doc.reason = ARGV[16]
  G.release('circuit:' .. name)
  G.open('circuit:' .. name, doc.open_until)
end

if doc.state == 'closed' then
  local slice_ms = math.max(1, math.floor(tonumber(ARGV[6]) / SLICES))
  if slice_ms ~= doc.slice_ms then doc.slices, doc.slice_ms = {}, slice_ms end
  local number, kept = math.floor(boot / slice_ms), {}
  for _, one in ipairs(doc.slices) do
    if one[1] > number - SLICES then kept[#kept + 1] = one end
  end
  local last = kept[#kept]
  if last and last[1] == number then
    last[2], last[3] = last[2] + ok, last[3] + failed
  else
    kept[#kept + 1] = { number, ok, failed }
  end
  doc.slices = kept
  local calls, failures = G.window(doc)
  local most, rate = tonumber(ARGV[5]), tonumber(ARGV[10])
  if failed > 0 and ((most >= 0 and failures >= most)
    or (rate >= 0 and calls >= tonumber(ARGV[9]) and failures >= rate * calls)) then
    trip()
  end
elseif doc.state == 'half_open' and probe ~= '' then
  if failed > 0 then
    trip()
  elseif ok > 0 then
    doc.successes = doc.successes + ok
    if doc.successes >= doc.half_open then G.close_circuit(name, doc) end
  end
  if doc.state == 'half_open' then G.open('circuit:' .. name, 0) end
end
G.keep_circuit(name)
finish_script()
return { G.circuit_row(name, doc.state ~= before and before or nil) }
