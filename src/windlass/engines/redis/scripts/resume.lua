-- Lift a pause.
--
-- KEYS     fixed
-- ARGV     4 queue
-- Returns  mark
-- Cost     O(1)

allow_growth()
if call('HEXISTS', QUEUES, ARGV[4]) == 1 then
  hset(QUEUES, ARGV[4], '')
  G.rouse(ARGV[4])
end
return { finish_marked() }
