-- KEYS: pointer. ARGV: its time to live in milliseconds, by default a day.
local problem = miscounted('coherd_version', #KEYS, #ARGV, 1, 0, 1, 'key KEY:version and argument TTL_MS, or none')
  or (ARGV[1] and no_ttl('coherd_version', ARGV[1]))
if problem then
  return problem
end
if string.sub(KEYS[1], -8) ~= ':version' then
  return refuse('coherd_version: got ' .. shown(KEYS[1]) .. ', expected KEY:version')
end
local ttl = ARGV[1] or '86400000'
local version, got
version, problem, got = version_at(KEYS[1])
if got then
  local expected = ', expected an integer below 2^53 - 1'
  return redis.error_reply('WRONGTYPE coherd_version: KEY:version holds ' .. shown(got) .. expected)
end
if problem then
  return problem
end
if not version then
  version = string.format('%.0f', now())
  redis.call('SET', KEYS[1], version, 'PX', ttl)
elseif redis.call('PTTL', KEYS[1]) < ttl / 2 then
  -- Not at every call, so that replicas do not receive a write for each reader.
  redis.call('PEXPIRE', KEYS[1], ttl)
end
return version
