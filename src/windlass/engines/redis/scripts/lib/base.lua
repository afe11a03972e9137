-- What all scripts but the shortest share: reading what is stored, and writes that go out in batches.
--
-- Writes are collected and sent by `flush`, removals first: so the first write is one that a full server allows, and a
-- job that was accepted once can be claimed and settled in a full server too.
--
-- Redis undoes nothing of a script that fails. So no key is written before it is known that each has the type it should:
-- LOOK_AT_TYPES does it for the fixed keys, `flush` for those of queues. What only tells or counts goes through `pcall`.

local function tail(list, from)
  local rest = {}
  for i = from, #list do rest[#rest + 1] = list[i] end
  return rest
end

G.known, G.ran = {}, {} -- what scripts share about guards

local CHUNK = 4000 -- even; unpack() takes no more than 8,000 values

-- Ended jobs of a queue are in order of when their record may go. Those that are kept longer than all are stand behind all
-- others, KEPT further on: so the first ones are those that a count may trim.
G.KEPT = 2 ^ 51

-- What others have packed, of the kinds of values that `kinds` names by their first letters ("sn": a string, a number,
-- ...; the last letter stands for all that follow); nil for bytes that are not that. Nothing that is stored is trusted:
-- a script that stops half-way has half happened.
function G.unpacked(text, kinds)
  if not text then return nil end
  local good, found = pcall(cmsgpack.unpack, text)
  if not good or type(found) ~= 'table' then return nil end
  for i = 1, math.max(#found, #kinds) do
    local kind = string.sub(kinds, math.min(i, #kinds), math.min(i, #kinds))
    if kind ~= '*' and string.sub(type(found[i]), 1, 1) ~= kind then return nil end
    if kind == 'n' and not G.is_number(found[i]) then return nil end
  end
  return found
end

-- A list of strings and numbers in turn; empty for bytes that are no such list.
function G.pairs_of(text)
  local found = G.unpacked(text, '*') or {}
  for i = 1, #found, 2 do
    if type(found[i]) ~= 'string' or not G.is_number(found[i + 1]) then return {} end
  end
  return found
end

function G.is_number(value)
  return type(value) == 'number' and value > -2 ^ 53 and value < 2 ^ 53
end

-- A whole number that a field of META bears, if it is there and can be one; 0 otherwise.
function G.number(field)
  local found = tonumber(call('HGET', META, field) or nil)
  return found and found >= 0 and found < G.NUMBER_MAX and math.floor(found) or 0
end

-- queue name -> the number of the key before its seven
local at = setmetatable({}, {
  __index = function(known, queue)
    local base = #KEYS
    for i = 1, #G.OF_QUEUE do KEYS[base + i] = G.key(i, queue) end
    known[queue] = base
    return base
  end,
})

local function mget(key, fields)
  local n = #fields
  if n == 0 then return {} end
  if n <= CHUNK then return call('HMGET', key, unpack(fields)) end
  local found = {}
  for i = 1, n, CHUNK do
    for j, value in ipairs(call('HMGET', key, unpack(fields, i, math.min(i + CHUNK - 1, n)))) do
      found[i + j - 1] = value
    end
  end
  return found
end

-- The types of keys, before any write. ---------------------------------------------------------------

LOOK_AT_TYPES -- the fixed keys, one by one (scripts.py)
local sure = SORTED_SETS -- keys that are of the right type

-- Of a queue's key, all of which are sorted sets but for those that wake.
function G.sound(key)
  if not sure[key] then
    call('ZCARD', key)
    sure[key] = true
  end
end

-- Writes, collected. -------------------------------------------------------------------------------

local zrems, hdels, zadds, hsets = {}, {}, {}, {}
local busy, soonest, lone = {}, {}, {} -- queues that got ready jobs; queue -> earliest time of new scheduled, lone ones
local ended = {} -- ids that finished or went
local jobs = {} -- id -> record, as this script has left it; false when it is gone

-- Jobs whose record is not sound, and why: noted, and made dead by the next step of upkeep (repair.lua). Nobody claims them.
G.damaged = {}
function G.note_damage(id, why)
  G.damaged[id] = why
end

local function into(lists, key)
  local list = lists[key]
  if not list then
    list = {}
    lists[key] = list
  end
  return list
end

local function zrem(key, member)
  local list = into(zrems, key)
  list[#list + 1] = member
end

local function hdel(key, field)
  local list = into(hdels, key)
  list[#list + 1] = field
end

local function zadd(key, score, member)
  local list = into(zadds, key)
  local n = #list
  list[n + 1] = score
  list[n + 2] = member
end

local function hset(key, field, value)
  local list = into(hsets, key)
  local n = #list
  list[n + 1] = field
  list[n + 2] = value
end

local function send(command, lists)
  for key, list in pairs(lists) do
    local n = #list
    for i = 1, n, CHUNK do call(command, key, unpack(list, i, math.min(i + CHUNK - 1, n))) end
  end
end

local counted = {} -- series -> how many more
local function count_more(series, by)
  counted[series] = (counted[series] or 0) + by
end

-- From here on a full server lets this script grow: it refuses only the first write of a script.
local function allow_growth()
  call('HDEL', META, '')
end

-- Whether a queue may be claimed from, by what QUEUES has of it.
function G.is_open(pause)
  local until_ms = pause and tonumber(string.match(pause, '^(%d+)|') or '')
  return not until_ms or (until_ms > 0 and until_ms <= wall) -- what is no pause is none
end

-- Before the first write: what is collected so far can be sent.
function G.sound_all()
  for key in pairs(zrems) do G.sound(key) end
  for key in pairs(zadds) do G.sound(key) end
end

-- Send what is collected. Then the lists are empty, and the same ones as before: whoever called for this may be in the
-- middle of a batch that has some of them in hand. With `last` nobody has, and new ones cost less.
local function flush(last)
  G.sound_all()
  for queue, run_at in pairs(soonest) do
    local head = call('ZRANGE', KEYS[at[queue] + kDUE], 0, 0, 'WITHSCORES')
    if not head[2] or tonumber(head[2]) > run_at then G.rouse(queue) end
  end
  send('ZREM', zrems)
  send('HDEL', hdels)
  send('ZADD', zadds)
  send('HSET', hsets)
  for queue in pairs(busy) do G.register_ready(queue) end
  for key, times in pairs({ [DUES] = soonest, [LONE] = lone }) do
    for queue, run_at in pairs(times) do
      if not busy[queue] then register(queue) end
      call('ZADD', key, 'LT', run_at, queue)
    end
  end
  busy, soonest, lone = {}, {}, {}
  if last then
    zrems, hdels, zadds, hsets = {}, {}, {}, {}
    return
  end
  for _, lists in ipairs({ zrems, hdels, zadds, hsets }) do
    for _, list in pairs(lists) do
      for i = #list, 1, -1 do list[i] = nil end
    end
  end
end

local function zscores(key, members)
  local found = {}
  for i = 1, #members, CHUNK do
    local n = math.min(i + CHUNK - 1, #members)
    for j, score in ipairs(call('ZMSCORE', key, unpack(members, i, n))) do found[i + j - 1] = score end
  end
  return found
end

G.COUNTED_BACK = 86400000 -- as in core/model.py, in ms

-- Send everything, and tell those who wait. `theirs` is what a caller has counted: series, how many, when or -1, ...
-- (msgpack array; "" for nothing).
local function finish_script(theirs)
  if G.advance then G.advance() end
  flush(true)
  local minute
  for series, by in pairs(counted) do
    if by ~= 0 then
      minute = minute or G.minute_of(wall)
      pcall(G.raise, COUNTS, minute .. series, by)
    end
  end
  if theirs and theirs ~= '' then
    local list = cmsgpack.unpack(theirs)
    for i = 1, #list, 3 do
      local at = list[i + 2] < 0 and wall or math.max(wall - G.COUNTED_BACK, math.min(list[i + 2], wall))
      pcall(G.raise, COUNTS, G.minute_of(at) .. list[i], list[i + 1])
    end
  end
  for id, why in pairs(G.damaged) do call('HSET', DAMAGED, id, why) end
  G.tell_workers()
  local asked = #ended > 0 and redis.pcall('ZCARD', AWAITED)
  if type(asked) == 'number' and asked > 0 then
    for i, score in ipairs(zscores(AWAITED, ended)) do
      if score then
        redis.pcall('PUBLISH', AWAITED, ended[i])
        call('ZREM', AWAITED, ended[i])
      end
    end
  end
end

-- As finish_script; gives the mark: a number that only grows while the store keeps its writes. -1 when it is none.
local function finish_marked(theirs)
  finish_script(theirs)
  local good, mark = pcall(G.raise, META, 'mark', 1)
  return good and mark or -1
end
