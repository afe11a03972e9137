-- uses: records guards ending
-- Release what a process held whose death was witnessed; charge the crash to what it had started.
--
-- KEYS     fixed
-- ARGV     4 worker  5 fences of started jobs (msgpack array)  6 max crashes  7 delay in ms, doubled by each crash
--          8 longest delay  9 error text up to its time  10 ms to keep ended jobs  11 ms to keep dead ones
--          12 cause of a poison death
-- Returns  mark, ids released, ids charged, ids dead
-- Cost     O(held log stored)

allow_growth()
local started = {}
for _, fence in ipairs(cmsgpack.unpack(ARGV[5])) do started[fence] = true end
local first, most, keep_done, keep_dead = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[10]), tonumber(ARGV[11])
local released, charged, dead = {}, {}, {}
for _, id in ipairs(held_by(ARGV[4], -1)) do
  local job = jobs[id]
  if started[job[FENCE]] then
    local how = charge(id, job, tonumber(ARGV[6]), first, most, ARGV[9], keep_done, keep_dead, ARGV[12])
    if how == 'again' then charged[#charged + 1] = id elseif how == 'dead' then dead[#dead + 1] = id end
  elseif release(id, job, keep_done) then
    released[#released + 1] = id
  end
end
forget_worker(ARGV[4])
count_more('total:recovered', #released + #charged)
return { finish_marked(), released, charged, dead }
