-- uses: records guards running leases document circuits judging bounding claiming
-- Lease ready jobs to a live worker.
--
-- KEYS     fixed
-- ARGV     4 worker  5 limit  6 "1" for the lone lane  7 ms to keep expired jobs  8 name, share, ... (msgpack array)
--          9 jobs that can start at once  10 ms that they may start late
--          11 bounds that hold where the store has none: name, limit or -1, count or 0, window in ms, ... (msgpack array)
--          12 lane, jobs of it that can start at once, that may be held ahead, ... (msgpack array; empty: any lane)
--          13 counts (lib/base.lua)
-- Returns  mark, {expelled, ms to the next due job or -1, {id, fence, ...} to cancel, fence of the first lease, {id,
--          record, body, reason, ...}, {number of a lease from 0, its guards, ...}, {number of a lease from 0, {key, text, ...}
--          of its notes, ...}, ids that ended instead}; fences count up from the first, and a job's first record is left
--          out: "" stands for it, "h" when the job is only held
-- Cost     O(queues + (due + leased) log stored)

allow_growth()
local claimed = claim(4)
return { finish_marked(ARGV[13]), claimed }
