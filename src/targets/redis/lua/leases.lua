-- The name of a key's lease, which is in the same slot of a cluster as the key.
local function lease_of(key)
  local tag = string.match(key, '{(.-)}')
  if tag and tag ~= '' then
    return key .. ':lease'
  end
  return '{' .. key .. '}:lease'
end

-- The error if the second key is not the lease of the first, or nil. coherd would not find another name.
local function no_lease(call, key, lease)
  if lease == lease_of(key) then
    return nil
  end
  return refuse(call .. ': got ' .. shown(lease) .. ' as LEASE, expected ' .. shown(lease_of(key)))
end

-- The text that a key holds; false if the key is missing; or nil and an error.
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

-- The nonce in a token, or nil if the text is no token.
local function nonce_in(token)
  return string.match(token, '^%d+%-(.+)$')
end

