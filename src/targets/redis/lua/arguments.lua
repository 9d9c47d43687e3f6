local function refuse(text)
  return redis.error_reply('ERR ' .. text)
end

-- A caller's bytes as an error may show them: printable ASCII, the first 100 bytes.
local function shown(bytes)
  local text = string.gsub(string.sub(bytes, 1, 100), '[^ -~]', function(byte)
    return string.format('\\x%02x', string.byte(byte))
  end)
  return '"' .. text .. (#bytes > 100 and '"...' or '"')
end

local function plural(count, noun)
  return count .. ' ' .. noun .. (count == 1 and '' or 's')
end

-- The error for a wrong number of keys or arguments, or nil.
local function miscounted(call, keys, arguments, keys_wanted, least, most, usage)
  if keys == keys_wanted and arguments >= least and arguments <= most then
    return nil
  end
  return refuse(call .. ': got ' .. plural(keys, 'key') .. ' and ' .. plural(arguments, 'argument') .. ', expected ' .. usage)
end

-- The error for an invalid time to live, or nil. 15 digits are exact in Lua and do not overflow in Redis.
local function no_ttl(call, text)
  if #text <= 15 and string.find(text, '^[1-9]%d*$') then
    return nil
  end
  return refuse(call .. ': got ' .. shown(text) .. ' as TTL_MS, expected milliseconds, 1 to 999999999999999')
end

