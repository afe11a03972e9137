-- Lift a pause.
--
-- KEYS     fixed; the queue
-- ARGV     4 queue
-- Returns  mark
-- Cost     O(1)

allow_growth()
if call('HEXISTS', QUEUES, ARGV[4]) == 1 then
  hset(QUEUES, ARGV[4], '')
  woken[ARGV[4]] = true
end
return { finish_marked() }
