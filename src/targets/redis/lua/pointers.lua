-- The server's clock in microseconds: later than every pointer that was made from it.
local function now()
  local clock = redis.call('TIME')
  return clock[1] * 1000000 + clock[2]
end

-- The digits that a version pointer holds; false if it is missing; or nil, an error, and the text that is there instead.
-- From 2^53 - 1 on Lua cannot count by ones. Such a number could not move, so it is no pointer.
local function version_at(pointer)
  local version = redis.pcall('GET', pointer)
  if type(version) == 'table' then
    return nil, version
  end
  if version and (not string.find(version, '^%d+$') or tonumber(version) >= 9007199254740991) then
    return nil, redis.error_reply('WRONGTYPE a version pointer holds no integer below 2^53 - 1'), version
  end
  return version
end

