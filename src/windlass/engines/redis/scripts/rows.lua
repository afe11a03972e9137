-- uses: noting
-- Read jobs by id, each as a whole.
--
-- KEYS     fixed
-- ARGV     4... ids
-- Returns  wall-clock ms, records, bodies, results, errors, reasons, causes, recoveries, gates, guards, places,
--          one value or nil an id; {key, text, ...} of the notes of each
-- Cost     O(ids)

local ids = tail(ARGV, 4)
return { wall, mget(REC, ids), mget(BODY, ids), mget(RESULT, ids), mget(ERRORS, ids), mget(REASON, ids),
  mget(CAUSE, ids), mget(RECOVERIES, ids), mget(K.BLOCKED_BY, ids),
  mget(K.GUARDS, ids), zscores(ARRIVALS, ids), G.notes_of(ids) }
