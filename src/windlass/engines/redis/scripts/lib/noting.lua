-- Notes: named texts of a job, gone with its record. Before `records`.
--
-- NOTES      id NUL key -> text; id -> its keys in the order they came, a NUL behind each
-- PROGRESS   id -> the note `progress`, where the version before has it too
-- No id and no key has a NUL. A note is a field of its own, so one of a thousand is written by itself. What NOTES has by
-- id is the flag that says whether a job has some: a claim asks for it, of jobs that have run before.

-- The keys of a job's notes but for `progress`.
function G.note_keys(index)
  local keys = {}
  for key in string.gmatch(index or '', '([^%z]+)%z') do keys[#keys + 1] = key end
  return keys
end

-- Write a note of a job, or remove it when `text` is false. At once, and not with `flush`: of two the last one counts.
function G.note(id, key, text)
  if key == 'progress' then
    if text then call('HSET', PROGRESS, id, text) else call('HDEL', PROGRESS, id) end
  elseif text then
    if call('HSET', NOTES, id .. '\0' .. key, text) == 0 then return end
    local index = call('HGET', NOTES, id) or ''
    if index ~= '' and string.byte(index, -1) ~= 0 then index = index .. '\0' end -- of one that was spoiled
    call('HSET', NOTES, id, index .. key .. '\0')
  elseif call('HDEL', NOTES, id .. '\0' .. key) == 1 then
    local left = {}
    for _, one in ipairs(G.note_keys(call('HGET', NOTES, id))) do
      if one ~= key then left[#left + 1] = one .. '\0' end
    end
    if #left > 0 then call('HSET', NOTES, id, table.concat(left)) else call('HDEL', NOTES, id) end
  end
end

-- Forget the notes of a job but for `progress`.
function G.drop_notes(id)
  if G.notes == nil then G.notes = call('HLEN', NOTES) > 0 end
  local index = G.notes and call('HGET', NOTES, id)
  if not index then return end
  hdel(NOTES, id)
  for _, key in ipairs(G.note_keys(index)) do hdel(NOTES, id .. '\0' .. key) end
end

-- The notes of jobs, a list for each: key, text, ...; empty for none.
function G.notes_of(ids)
  local found = {}
  local some = call('HLEN', NOTES) > 0 and mget(NOTES, ids) or {}
  for i, id in ipairs(ids) do
    local notes, keys, fields = {}, G.note_keys(some[i]), {}
    for j, key in ipairs(keys) do fields[j] = id .. '\0' .. key end
    for j, text in ipairs(mget(NOTES, fields)) do
      if text then notes[#notes + 1], notes[#notes + 2] = keys[j], text end
    end
    found[i] = notes
  end
  for i, text in ipairs(call('HLEN', PROGRESS) > 0 and mget(PROGRESS, ids) or {}) do
    if text then
      local n = #found[i]
      found[i][n + 1], found[i][n + 2] = 'progress', text
    end
  end
  return found
end
