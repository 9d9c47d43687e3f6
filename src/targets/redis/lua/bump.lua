-- Moves every version pointer on: KEYS are the pointers, ARGV[1] their time to live in milliseconds.
-- A pointer never shows a number twice: it moves to the clock in microseconds, or by one where it is ahead of the clock.
-- What is no pointer (another type, no number, a number from which Lua cannot count on) gives way to one: no reader was
-- ever given a version from it. Returns how many moved; where some gave way, an array: how many moved, then the place of
-- each of those in KEYS.
-- Where memory is full (OOM), pointers that are there move all the same: a script whose first write takes no memory may go
-- on. One that is not there is not made: whoever asks for it gets a later one, as after an eviction.
local clock = now()
local moved, gave_way, first, full = 0, {}, nil, false
for place, pointer in ipairs(KEYS) do
  local old, done = version_at(pointer)
  local foreign = done and string.find(done.err, 'WRONGTYPE', 1, true)
  if foreign then
    old, done = false, nil
  end
  if not done and (old or foreign or not full) then
    local new = math.max((old and tonumber(old) or 0) + 1, clock)
    if new >= 9007199254740991 then
      new = clock
    end
    local text = string.format('%.0f', new)
    done = redis.pcall('SET', pointer, text, 'PX', ARGV[1])
    if done.err and string.find(done.err, 'OOM', 1, true) then
      full = true
      done = nil
      if old or foreign then
        redis.call('UNLINK', pointer)
        done = redis.pcall('SET', pointer, text, 'PX', ARGV[1])
      end
    end
    if done and not done.err then
      moved = moved + 1
      if foreign then
        gave_way[#gave_way + 1] = place
      end
    end
  end
  if done and done.err then
    first = first or done
  end
end
if first then
  return first
end
if #gave_way > 0 then
  table.insert(gave_way, 1, moved)
  return gave_way
end
return moved
