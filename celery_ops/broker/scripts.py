"""The Lua scripts: what Redis has to check and do in one step.

They are sent with EVAL each time. That saves the bookkeeping of SCRIPT LOAD after a restart or a
failover; the server compiles each of them once.
"""

from __future__ import annotations

HOLDS = """
local function holds(key, token)
  local lease = redis.call('GET', key)
  if not lease then return false end
  local readable, value = pcall(cjson.decode, lease)
  return readable and type(value) == 'table' and value.token == token
end
"""

PUBLISH = (
    HOLDS
    + """
-- KEYS: the binding of the reply exchange, our reply list, the lease.
-- ARGV: token or '', key prefix, separator, suffix of lists, our member, our sentinel,
--       expiry of the list in ms, of the binding in ms, how many channels, channel..., message...
-- Returns how many listeners each message reached, or nothing if the token is not the lease's.
if ARGV[1] ~= '' and not holds(KEYS[3], ARGV[1]) then return false end
local prefix, separator, suffix = ARGV[2], ARGV[3], ARGV[4]
local lives, bound_for = tonumber(ARGV[7]), tonumber(ARGV[8])
-- The binding is shared, and every client that asks prolongs it. So the members of those who may be
-- gone have to leave it before their lists expire: a reply to a list that is gone would stay for
-- ever.
for _, member in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local first = string.find(member, separator, 1, true)
  local second = first and string.find(member, separator, first + #separator, true)
  local queue = second and string.sub(member, second + #separator) or ''
  if redis.call('PTTL', prefix .. queue .. suffix) < 1.25 * bound_for then
    redis.call('SREM', KEYS[1], member)
  end
end
if redis.call('LINDEX', KEYS[2], -1) ~= ARGV[6] then redis.call('RPUSH', KEYS[2], ARGV[6]) end
redis.call('PEXPIRE', KEYS[2], lives)
redis.call('SADD', KEYS[1], ARGV[5])
redis.call('PEXPIRE', KEYS[1], bound_for)
local reached = {}
local channels = tonumber(ARGV[9])
for index = 10 + channels, #ARGV do
  local listeners = 0
  for at = 10, 9 + channels do
    listeners = listeners + redis.call('PUBLISH', ARGV[at], ARGV[index])
  end
  reached[#reached + 1] = listeners
end
return reached
"""
)

RESTORE = (
    HOLDS
    + """
-- KEYS: the lease, the hash of held messages, the index of their deliveries.
-- ARGV: token, then for each message: tag, moment of its delivery, what the hash holds, the list it
--       goes to, what goes there.
-- Returns 1 for each that was moved, 0 for each that was not held in that very delivery any more,
-- -1 where the key is no list; or nothing if the token is not the lease's.
if not holds(KEYS[1], ARGV[1]) then return false end
local outcomes = {}
for at = 2, #ARGV, 5 do
  local tag, list = ARGV[at], ARGV[at + 3]
  local delivered = tonumber(redis.call('ZSCORE', KEYS[3], tag) or '')
  local kind = redis.call('TYPE', list).ok
  if delivered ~= tonumber(ARGV[at + 1]) or redis.call('HGET', KEYS[2], tag) ~= ARGV[at + 2] then
    outcomes[#outcomes + 1] = 0
  elseif kind ~= 'none' and kind ~= 'list' then
    outcomes[#outcomes + 1] = -1
  else
    -- First, since it is what a full server refuses: then the message is still where it was.
    redis.call('RPUSH', list, ARGV[at + 4])
    redis.call('ZREM', KEYS[3], tag)
    redis.call('HDEL', KEYS[2], tag)
    outcomes[#outcomes + 1] = 1
  end
end
return outcomes
"""
)

SEND = (
    HOLDS
    + """
-- KEYS: the lease, the list of a queue. ARGV: token, message, the side: LPUSH or RPUSH.
if not holds(KEYS[1], ARGV[1]) then return 0 end
redis.call(ARGV[3], KEYS[2], ARGV[2])
return 1
"""
)

ACQUIRE = """
-- KEYS: the lease. ARGV: the new lease, its ttl in ms, run and operator whose lease may be replaced
-- (empty: nobody's). Returns whether it was taken.
local lease = redis.call('GET', KEYS[1])
if lease then
  local readable, value = pcall(cjson.decode, lease)
  local ours = readable and type(value) == 'table' and ARGV[3] ~= ''
    and value.run == ARGV[3] and value.operator == ARGV[4]
  if not ours then return 0 end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""

RENEW = (
    HOLDS
    + """
-- KEYS: the lease. ARGV: token, ttl in ms, the lease as it reads from now on (empty: as it does).
-- Returns whether it is still the token's. The life comes first: what a full server grants at the
-- beginning of a script lets it go on with what it would refuse.
if not holds(KEYS[1], ARGV[1]) then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
if ARGV[3] ~= '' then redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[2]) end
return 1
"""
)

BREAK = """
-- KEYS: the lease, the hash of the runs there were.
-- ARGV: run, operator and beginning of the holder; record of its run, which says who broke it.
-- It goes first, so that a full server lets the note be written too.
local lease = redis.call('GET', KEYS[1])
if not lease then return 0 end
local readable, value = pcall(cjson.decode, lease)
if not (readable and type(value) == 'table' and value.run == ARGV[1]
  and value.operator == ARGV[2] and value.since == ARGV[3]) then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[4])
return 1
"""

RELEASE = (
    HOLDS
    + """
-- KEYS: the lease. ARGV: token.
if not holds(KEYS[1], ARGV[1]) then return 0 end
return redis.call('DEL', KEYS[1])
"""
)

TAKE = (
    HOLDS
    + """
-- KEYS: the lease, the hash of what is taken. ARGV: token, field, record.
if not holds(KEYS[1], ARGV[1]) then return 0 end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
return 1
"""
)

NOTE_RUN = """
-- KEYS: the hash of the runs there were. ARGV: run, record, how many are kept.
-- Ids begin with the moment: the smallest are the oldest.
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
local surplus = redis.call('HLEN', KEYS[1]) - tonumber(ARGV[3])
if surplus > 0 then
  local runs = redis.call('HKEYS', KEYS[1])
  table.sort(runs)
  for index = 1, surplus do redis.call('HDEL', KEYS[1], runs[index]) end
end
return 1
"""

CLEAR_TAKEN = (
    HOLDS
    + """
-- KEYS: the lease, the hash of what is taken. ARGV: token, field, the record as it was read.
if not holds(KEYS[1], ARGV[1]) then return 0 end
if redis.call('HGET', KEYS[2], ARGV[2]) == ARGV[3] then redis.call('HDEL', KEYS[2], ARGV[2]) end
return 1
"""
)

LENGTHS = """
-- KEYS: what may be lists. Returns how long each is; -1 for a key of something else.
local found = {}
for place, key in ipairs(KEYS) do
  local length = redis.pcall('LLEN', key)
  if type(length) == 'number' then
    found[place] = length
  elseif string.find(length.err, 'WRONGTYPE', 1, true) then
    found[place] = -1
  else
    return length
  end
end
return found
"""

LOOK = """
-- KEYS: lists. ARGV: how many bytes of messages may be looked at, how many bytes tell one message.
-- Returns for each list, as long as the bytes last: the memory it takes (-1: may not be asked for),
-- and a digest of the message that is served next; nothing of a key that is no list.
local budget, most = tonumber(ARGV[1]), tonumber(ARGV[2])
local found = {}
for place, key in ipairs(KEYS) do
  if budget <= 0 then break end
  local head = redis.pcall('LINDEX', key, -1)
  if type(head) == 'string' then
    budget = budget - #head
    local told = #head .. string.sub(head, -most)
    local size = redis.pcall('MEMORY', 'USAGE', key)
    found[place] = {type(size) == 'number' and size or -1, redis.sha1hex(told)}
  else
    found[place] = {}
  end
end
return found
"""
