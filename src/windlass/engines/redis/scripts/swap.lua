-- uses: document swapping
-- Write documents, all or none, in order. With jobs, gates or counts they go through commit.lua.
--
-- KEYS     fixed
-- ARGV     4... the time they were decided for, or "", and swaps (lib/swapping.lua)
-- Returns  the version of each, 0 for one that was removed, and the time
--          or, with nothing stored: "\0lost", the documents as they stand: version, value of each, and the time
-- Cost     O(swaps log documents + those that are over)

local lost = G.lost(ARGV, 4, #ARGV)
if lost then return { '\0lost', lost, boot } end
return { 0, G.swap(ARGV, 4, #ARGV), boot }
