-- Reading documents: {version, when it is over by the wall clock or 0, value}, msgpack.

-- The version and the value of a document as it stands; 0 and "" when there is none.
function G.document(packed)
  local one = G.unpacked(packed, 'nns')
  if one and (one[2] == 0 or one[2] > wall) then return one[1], one[3] end
  return 0, ''
end
