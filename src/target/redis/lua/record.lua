-- Writes the record: KEYS[1] is the record, ARGV its fields, each followed by its value. Fields that are not named stay.
--   1  written
--   2  written in place of what another had put there, a key of another type
local function write()
  return redis.pcall('HSET', KEYS[1], unpack(ARGV))
end

local done = write()
if type(done) ~= 'table' then
  return 1
end
local full = string.find(done.err, 'OOM', 1, true)
local foreign = string.find(done.err, 'WRONGTYPE', 1, true)
if not full and not foreign then
  return done
end
local kept = full and redis.pcall('HGETALL', KEYS[1]) or {}
foreign = foreign or kept.err
-- A script whose first write takes no memory may go on beyond maxmemory (Redis manual, "Scripting with Lua", "Execution
-- under low memory conditions"), on Redis 6 too, which knows no flag allow-oom. So the record is made again, whole.
redis.call('UNLINK', KEYS[1])
for field = 1, #kept, 2 do
  redis.call('HSET', KEYS[1], kept[field], kept[field + 1])
end
done = write()
if type(done) == 'table' then
  return done
end
return foreign and 2 or 1
