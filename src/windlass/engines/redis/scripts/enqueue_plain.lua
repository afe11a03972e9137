-- on: ground specs
-- Store one job that nothing but its own id may be in the way of: it has no guards, it is due now and never expires, and
-- nobody chose its id. The same as enqueue.lua does, without what takes apart a batch; it looks at a key's type by asking
-- of it what it wants to know.
--
-- KEYS     fixed
-- ARGV     4 spec (lib/specs.lua)  5 id  6 body
-- Returns  how many jobs were ever stored, "0"; or, with nothing stored, "\0known": there is such an id, so enqueue.lua
--          has to look at it
-- Cost     O(log stored); a full server refuses its first write

local spec, id = G.read_spec(ARGV[4]), ARGV[5]
local queue = spec.queue
local ready = G.key(kREADY, queue)
if call('HEXISTS', BODY, id) == 1 then return { '\0known' } end
call('ZCARD', ARRIVALS)
call('ZCARD', ready)
local is_busy, name, is_idle = call('ZSCORE', BUSY, queue), call('HGET', QUEUES, queue), call('HEXISTS', IDLE, queue)
local seq = G.raise(META, 'seq', 1, G.last_seq) -- the first write: a full server refuses it, and nothing was stored
local body, entry = G.laid_out(spec, id, ARGV[6], seq)
call('HSET', BODY, id, body)
call('ZADD', ARRIVALS, seq, id)
call('ZADD', ready, spec.score, entry)
if not is_busy or not name or is_idle == 1 then G.register_ready(queue) end
G.rouse(queue, spec.lane)
pcall(G.raise, COUNTS, G.minute_of(wall) .. 'arrived:' .. queue, 1)
G.tell_workers()
return { seq, '0' }
