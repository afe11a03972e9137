-- bare
-- Put a token into inboxes. One is enough, and one that nobody fetches goes by itself.
--
-- KEYS     inboxes
-- ARGV     1 ms until an unread token goes
-- Returns  nothing
-- Cost     O(keys)

for _, key in ipairs(KEYS) do
  if redis.call('LLEN', key) == 0 then
    redis.pcall('RPUSH', key, '1')
    redis.call('PEXPIRE', key, ARGV[1])
  end
end
