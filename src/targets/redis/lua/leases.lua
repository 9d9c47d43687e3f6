-- The name of a key's lease, in the key's slot of a cluster.
local function lease_of(key)
  local tag = string.match(key, '{(.-)}')
  if tag and tag ~= '' then
    return key .. ':lease'
  end
  return '{' .. key .. '}:lease'
end

-- The error for a second key that is not the first one's lease, or nil: coherd would not find it.
local function no_lease(call, key, lease)
  if lease == lease_of(key) then
    return nil
  end
  return refuse(call .. ': got ' .. shown(lease) .. ' as LEASE, expected ' .. shown(lease_of(key)))
end

-- The text that a key holds, false where there is none, or nil and an error.
local function text_at(call, place, key)
  local text = redis.pcall('GET', key)
  if type(text) ~= 'table' then
    return text
  end
  if not string.find(text.err, 'WRONGTYPE', 1, true) then
    return nil, text
  end
  local kind = redis.pcall('TYPE', key).ok or 'another type'
  return nil, redis.error_reply('WRONGTYPE ' .. call .. ': ' .. place .. ' holds a ' .. kind .. ', expected a string')
end

-- The nonce in a token, or nil for what is no token.
local function nonce_in(token)
  return string.match(token, '^%d+%-(.+)$')
end

