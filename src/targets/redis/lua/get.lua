-- KEYS: key, lease. ARGV: time to live of the lease in milliseconds, nonce.
local problem = miscounted('coherd_get', #KEYS, #ARGV, 2, 2, 2, 'keys KEY LEASE and arguments TTL_MS NONCE')
  or no_lease('coherd_get', KEYS[1], KEYS[2])
  or no_ttl('coherd_get', ARGV[1])
if problem then
  return problem
end
if #ARGV[2] < 16 or #ARGV[2] > 128 then
  return refuse('coherd_get: got ' .. plural(#ARGV[2], 'byte') .. ' as NONCE, expected 16 to 128 bytes of random text')
end
local value, token
value, problem = text_at('coherd_get', 'KEY', KEYS[1])
if problem then
  return problem
end
if value then
  return {1, value}
end
token, problem = text_at('coherd_get', 'LEASE', KEYS[2])
if problem then
  return problem
end
if not token then
  -- Nonce and clock: two leases share a token only if both repeat.
  local clock = redis.call('TIME')
  token = clock[1] .. string.format('%06d', clock[2]) .. '-' .. ARGV[2]
  redis.call('SET', KEYS[2], token, 'PX', ARGV[1])
  return {0, token, 1}
end
local nonce = nonce_in(token)
if not nonce then
  return refuse('coherd_get: LEASE holds ' .. shown(token) .. ', expected a token: something else writes this key')
end
-- A reader that repeats a call because the reply was lost must not wait for itself.
return {0, token, nonce == ARGV[2] and 1 or 0}
