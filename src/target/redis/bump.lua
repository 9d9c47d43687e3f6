-- Moves every version pointer on: KEYS are the pointers, ARGV[1] their time to live in milliseconds.
-- A pointer never shows a number twice: it moves to the clock in microseconds, or by one where it is ahead of the clock.
-- One that holds no number is left alone and reported once the others have moved.
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local moved, first = 0, nil
for _, pointer in ipairs(KEYS) do
  local old = redis.pcall('GET', pointer)
  local done
  if type(old) == 'table' then
    done = old
  elseif old and (not string.find(old, '^%d+$') or tonumber(old) >= 9007199254740991) then
    done = redis.error_reply('WRONGTYPE a version pointer holds no integer below 2^53 - 1')
  else
    local new = math.max((old and tonumber(old) or 0) + 1, now)
    done = redis.pcall('SET', pointer, string.format('%.0f', new), 'PX', ARGV[1])
  end
  if done.err then
    first = first or done
  else
    moved = moved + 1
  end
end
return first or moved
