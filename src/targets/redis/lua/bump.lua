-- Moves every version pointer. KEYS are the pointers; ARGV[1] is their time to live in milliseconds.
-- A pointer never shows a number twice: it moves to the clock in microseconds, or by one if it is ahead of the clock.
-- A pointer replaces any other value at its key (another type, not a number, a number too large for Lua to increment): no
-- reader ever got a version from that value. Returns how many pointers moved. If some replaced another value, returns an
-- array: how many moved, then the place of each of those in KEYS.
-- If memory is full (OOM), existing pointers move all the same: a script whose first write takes no memory may continue. A
-- missing pointer is not created: the next reader that asks for it gets a later number, as after an eviction.
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
