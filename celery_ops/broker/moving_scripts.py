"""The Lua scripts that move messages: each checks the lease, moves a portion and counts it, in one
step.

In each the first write is one that a full server refuses: then nothing was done at all.
"""

from __future__ import annotations

from celery_ops.broker.scripts import HOLDS

_IS_LIST = """
local function is_list(key)
  local kind = redis.call('TYPE', key).ok
  return kind == 'none' or kind == 'list'
end
"""

PASS_ON = (
    HOLDS
    + _IS_LIST
    + """
-- KEYS: the lease, the counts, the list they come from, the list they go to.
-- ARGV: token, ticket, how many at most under the ticket (-1: any number), how many are known to be
--       counted under it, how many now, how many bytes now, 1 if they go before those that wait
--       there.
-- Moves whatever is next at the end that is served next (or, to go before others, what is last at
-- the other one), not a byte of it changed; none if fewer are counted than are known. Returns the
-- count under the ticket and how many were moved now; nothing if the token is not the lease's; -1
-- if a key is no list.
if not holds(KEYS[1], ARGV[1]) then return false end
if not (is_list(KEYS[3]) and is_list(KEYS[4])) then return {-1, 0} end
local done = tonumber(redis.call('HGET', KEYS[2], ARGV[2]) or '0')
if done < tonumber(ARGV[4]) then return {done, 0} end
local limit, most, bytes = tonumber(ARGV[3]), tonumber(ARGV[5]), tonumber(ARGV[6])
if limit >= 0 then most = math.min(most, limit - done) end
local moved = 0
while moved < most and bytes > 0 do
  local message
  if ARGV[7] == '1' then
    message = redis.call('LINDEX', KEYS[3], 0)
    if not message then break end
    redis.call('RPUSH', KEYS[4], message)
    redis.call('LPOP', KEYS[3])
  else
    message = redis.call('RPOPLPUSH', KEYS[3], KEYS[4])
    if not message then break end
  end
  moved = moved + 1
  bytes = bytes - #message
end
if moved > 0 then redis.call('HINCRBY', KEYS[2], ARGV[2], moved) end
return {done + moved, moved}
"""
)

PICK = (
    HOLDS
    + _IS_LIST
    + """
-- KEYS: the lease, the counts, the list they come from, the list they go to.
-- ARGV: token, ticket, how many at most under the ticket (-1: any number), how many are known to be
--       counted under it, how many places at the end that is served next are passed over, how many
--       places after these are looked at, what no message ever is; then each message that is meant,
--       and what goes in its place (empty: as it is).
-- Moves those that are there; none if fewer are counted than are known. Returns the count under the
-- ticket and how many were moved now; nothing if the token is not the lease's; -1 if a key is no
-- list.
if not holds(KEYS[1], ARGV[1]) then return false end
if not (is_list(KEYS[3]) and is_list(KEYS[4])) then return {-1, 0} end
local done = tonumber(redis.call('HGET', KEYS[2], ARGV[2]) or '0')
if done < tonumber(ARGV[4]) then return {done, 0} end
local limit, passed, looked = tonumber(ARGV[3]), tonumber(ARGV[5]), tonumber(ARGV[6])
local meant = {}
for at = 8, #ARGV, 2 do meant[ARGV[at]] = ARGV[at + 1] end
local there = redis.call('LRANGE', KEYS[3], -(passed + looked), -(passed + 1))
local moved, last = 0, 0
for at = #there, 1, -1 do
  if limit >= 0 and done + moved >= limit then break end
  local new = meant[there[at]]
  if new then
    redis.call('LPUSH', KEYS[4], new ~= '' and new or there[at])
    if passed == 0 and last == #there - at then
      last = last + 1
    else
      redis.call('LSET', KEYS[3], -(passed + 1 + #there - at), ARGV[7])
    end
    moved = moved + 1
  end
end
if moved > last then
  -- From where it takes less: every message on the way is compared, twice as fast from the left.
  local is_near = 3 * passed + 2 * looked < redis.call('LLEN', KEYS[3])
  redis.call('LREM', KEYS[3], is_near and last - moved or moved - last, ARGV[7])
end
-- Those at the very end go at a stroke.
if last > 0 then redis.call('LTRIM', KEYS[3], 0, -(last + 1)) end
if moved > 0 then redis.call('HINCRBY', KEYS[2], ARGV[2], moved) end
return {done + moved, moved}
"""
)

DIVIDE = (
    HOLDS
    + _IS_LIST
    + """
-- KEYS: the lease, the list they come from, the lists they go to. ARGV: token; then, as they are
-- served, the number of its list (3 or 4) and each message that is meant.
-- Moves them as long as they are what is served next. Returns how many went to either list; nothing
-- if the token is not the lease's; -1 if a key is no list.
if not holds(KEYS[1], ARGV[1]) then return false end
for at = 2, 4 do if not is_list(KEYS[at]) then return {-1, 0} end end
local meant = (#ARGV - 1) / 2
local there = redis.call('LRANGE', KEYS[2], -meant, -1)
local going, moved = {{}, {}}, 0
for place = 1, #there do
  local message = ARGV[2 * place + 1]
  if there[#there + 1 - place] ~= message then break end
  local list = going[tonumber(ARGV[2 * place]) - 2]
  list[#list + 1] = message
  moved = moved + 1
end
for at = 1, 2 do
  if #going[at] > 0 then redis.call('LPUSH', KEYS[at + 2], unpack(going[at])) end
end
if moved > 0 then redis.call('LTRIM', KEYS[2], 0, -(moved + 1)) end
return {#going[1], #going[2]}
"""
)

GATHER = (
    HOLDS
    + _IS_LIST
    + """
-- KEYS: the lease, the list they come from, the list they go to.
-- ARGV: token, how many may be in the latter, how many of them are read.
-- Moves those that are served next, and returns those that are served next of all that is there
-- then; nothing if the token is not the lease's; -1 if a key is no list.
if not holds(KEYS[1], ARGV[1]) then return false end
if not (is_list(KEYS[2]) and is_list(KEYS[3])) then return -1 end
for _ = 1, tonumber(ARGV[2]) - redis.call('LLEN', KEYS[3]) do
  if not redis.call('RPOPLPUSH', KEYS[2], KEYS[3]) then break end
end
return redis.call('LRANGE', KEYS[3], -tonumber(ARGV[3]), -1)
"""
)

PUT_BACK = (
    _IS_LIST
    + """
-- KEYS: the list they come from, the list they go to.
-- Moves all of them, to be served before those that wait there. Without the lease: whose it is now
-- does not matter to what goes back where it came from.
if not (is_list(KEYS[1]) and is_list(KEYS[2])) then return -1 end
local moved, message = 0, redis.call('LINDEX', KEYS[1], 0)
while message do
  redis.call('RPUSH', KEYS[2], message)
  redis.call('LPOP', KEYS[1])
  moved, message = moved + 1, redis.call('LINDEX', KEYS[1], 0)
end
return moved
"""
)

PUT = (
    HOLDS
    + _IS_LIST
    + """
-- KEYS: the lease, the counts, the lists of a queue's priority steps.
-- ARGV: token, ticket, what must have been counted under it before; then, the first to be served
--       first, the number of its list and the message.
-- Returns whether they were put; nothing if the token is not the lease's; -1 if a key is no list.
if not holds(KEYS[1], ARGV[1]) then return false end
for at = 3, #KEYS do if not is_list(KEYS[at]) then return -1 end end
if redis.call('HGET', KEYS[2], ARGV[2]) ~= (ARGV[3] ~= '0' and ARGV[3]) then return 0 end
local put = 0
for at = #ARGV - 1, 4, -2 do
  redis.call('RPUSH', KEYS[2 + tonumber(ARGV[at])], ARGV[at + 1])
  put = put + 1
end
if put > 0 then redis.call('HINCRBY', KEYS[2], ARGV[2], put) end
return 1
"""
)

SEND_ONCE = (
    HOLDS
    + _IS_LIST
    + """
-- KEYS: the lease, the names that something was sent under, the lists of a queue's priority steps.
-- ARGV: token, now, before when a name is forgotten (seconds since the epoch); then the number of a
--       list, a name and a message, each.
-- Returns the names that were new: their messages were sent, behind those that wait; nothing if the
-- token is not the lease's; -1 if a key is no list.
if not holds(KEYS[1], ARGV[1]) then return false end
for at = 3, #KEYS do if not is_list(KEYS[at]) then return -1 end end
local sent = {}
for at = 4, #ARGV, 3 do
  if redis.call('ZADD', KEYS[2], 'NX', ARGV[2], ARGV[at + 1]) == 1 then
    redis.call('LPUSH', KEYS[2 + tonumber(ARGV[at])], ARGV[at + 2])
    sent[#sent + 1] = ARGV[at + 1]
  end
end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ARGV[3])
return sent
"""
)

FORGET = (
    HOLDS
    + """
-- KEYS: the lease, the counts. ARGV: token, ticket.
if not holds(KEYS[1], ARGV[1]) then return false end
return redis.call('HDEL', KEYS[2], ARGV[2])
"""
)

DROP = (
    HOLDS
    + _IS_LIST
    + """
-- KEYS: the lease, the lists of a queue's priority steps. ARGV: token, how many messages there must
--       be, or nothing is done.
-- Returns how many there were; nothing if the token is not the lease's; -1 if a key is no list.
if not holds(KEYS[1], ARGV[1]) then return false end
local count = 0
for at = 2, #KEYS do
  if not is_list(KEYS[at]) then return -1 end
  count = count + redis.call('LLEN', KEYS[at])
end
if count == tonumber(ARGV[2]) then
  for at = 2, #KEYS do redis.call('UNLINK', KEYS[at]) end
end
return count
"""
)
