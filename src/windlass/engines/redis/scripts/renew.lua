-- uses: guards leases
-- Renew the leases of tokens that still have their places.
--
-- KEYS     fixed
-- ARGV     4 lease in ms  5... gate, token, ...
-- Returns  one "1" (renewed) or "0" (lost) a hold
-- Cost     O(holds + leases at their gates)

allow_growth()
local answers = {}
for i = 5, #ARGV, 2 do
  local leases, good = G.leases(ARGV[i]), false
  for _, one in ipairs(leases) do
    if one[1] == ARGV[i + 1] and (one[3] > boot or G.taken(ARGV[i]) == 0) then
      G.prolong(ARGV[i], leases, one, tonumber(ARGV[4]))
      good = true
    end
  end
  answers[#answers + 1] = good and '1' or '0'
end
return { table.concat(answers) }
