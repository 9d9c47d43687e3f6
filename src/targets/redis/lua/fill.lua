-- KEYS: key, lease. ARGV: token, time to live of the value in milliseconds, value.
local problem = miscounted('coherd_fill', #KEYS, #ARGV, 2, 3, 3, 'keys KEY LEASE and arguments TOKEN TTL_MS VALUE')
  or no_lease('coherd_fill', KEYS[1], KEYS[2])
  or no_ttl('coherd_fill', ARGV[2])
if problem then
  return problem
end
if not nonce_in(ARGV[1]) then
  return refuse('coherd_fill: got ' .. shown(ARGV[1]) .. ' as TOKEN, expected one that coherd_get gave')
end
local token
token, problem = text_at('coherd_fill', 'LEASE', KEYS[2])
if problem then
  return problem
end
if token ~= ARGV[1] then
  return 0
end
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'string' and kind ~= 'none' then
  return redis.error_reply('WRONGTYPE coherd_fill: KEY holds a ' .. kind .. ', expected a string')
end
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[2])
redis.call('DEL', KEYS[2])
return 1
