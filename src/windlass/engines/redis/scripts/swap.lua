-- uses: swapping
-- Write documents, all or none, in order. With jobs or counts they go through commit.lua.
--
-- KEYS     fixed
-- ARGV     4... swaps (lib/swapping.lua)
-- Returns  the version of each, 0 for one that was removed
--          or, with nothing stored: "\0lost", and the documents as they stand: version, value of each
-- Cost     O(swaps log documents + those that are over)

local lost = G.lost(ARGV, 4, #ARGV)
if lost then return { '\0lost', lost } end
return { 0, G.swap(ARGV, 4, #ARGV) }
