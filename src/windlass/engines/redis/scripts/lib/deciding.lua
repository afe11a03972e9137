-- Whether who waits for `count` members (0: all) of a join that have ended so goes on, is skipped, or waits: the second copy
-- of core/join.py. Before `joining`.

function G.decision(sealed, total, ok, bad, void, of, count)
  local open = total - ok - bad - void
  local have = of == 'ok' and ok or of == 'bad' and bad or total - open
  if count == 0 and not sealed then return 'wait' end
  local need = count > 0 and count or total
  if have >= need then return 'go' end
  return sealed and have + open < need and 'skip' or 'wait'
end
