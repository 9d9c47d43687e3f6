-- Moves every version pointer on: KEYS are the pointers, ARGV[1] their time to live in milliseconds.
-- A pointer never shows a number twice: it moves to the clock in microseconds, or by one where it is ahead of the clock.
-- One that holds no number is left alone and reported once the others have moved.
local clock = now()
local moved, first = 0, nil
for _, pointer in ipairs(KEYS) do
  local old, done = version_at(pointer)
  if not done then
    local new = math.max((old and tonumber(old) or 0) + 1, clock)
    done = redis.pcall('SET', pointer, string.format('%.0f', new), 'PX', ARGV[1])
  end
  if done.err then
    first = first or done
  else
    moved = moved + 1
  end
end
return first or moved
