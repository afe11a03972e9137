-- In place of `guards` and what builds on it, where the client believes that no job of the store has any and no queue is
-- bound: a third less to set up in each call. When that is wrong, gives {"\0guards"} before any write, and the client
-- calls the whole script.

if call('HLEN', K.GUARDS) + call('HLEN', K.BOUNDS) + call('HLEN', K.STARVED) > 0 then return { '\0guards' } end

local function none() end
G.of, G.gate_of, G.stopped, G.ended, G.removed, G.makes_room, G.let_go, G.let = none, none, none, none, none, none, none, {}
G.ties = none
function G.know() return {} end
