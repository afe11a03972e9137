-- Let no job of a queue be claimed.
--
-- KEYS     fixed
-- ARGV     4 queue  5 "until|who|reason", until being wall-clock ms or 0 for no end
-- Returns  mark
-- Cost     O(1)

allow_growth()
hset(QUEUES, ARGV[4], ARGV[5])
hdel(IDLE, ARGV[4])
return { finish_marked() }
