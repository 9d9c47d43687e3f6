-- Writes the record, unless somebody else has changed it. KEYS[1] is the record.
-- ARGV: writer, least, most     writes if the record names this writer and has a sequence from least to most
--       writer, sequence        or if the record is still as it was read: both empty if there was none, 'WRONGTYPE' if
--                               the key had another type, 'NOTHING' to accept only the condition above
--       field, value, ...       the fields to write; other fields stay
--   0  nothing was written: the record has changed
--   1  written
--   2  written in place of a key of another type
local function field(name)
  return redis.pcall('HGET', KEYS[1], name)
end

local function write()
  return redis.pcall('HSET', KEYS[1], unpack(ARGV, 6))
end

local writer, sequence = field('writer'), nil
if type(writer) == 'table' then
  if not string.find(writer.err, 'WRONGTYPE', 1, true) then
    return writer
  end
  writer, sequence = 'WRONGTYPE', ''
else
  writer, sequence = writer or '', field('sequence') or ''
end
local number = tonumber(sequence)
local ours = writer == ARGV[1] and number and number >= tonumber(ARGV[2]) and number <= tonumber(ARGV[3])
if not ours and not (writer == ARGV[4] and sequence == ARGV[5]) then
  return 0
end

-- The fields of an earlier build would go stale beside those of this one. The first write of this build has all fields.
if not ours and writer ~= 'WRONGTYPE' and type(field('struck')) == 'string' then
  redis.call('UNLINK', KEYS[1])
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
-- A script whose first write takes no memory may continue beyond maxmemory (Redis manual, "Scripting with Lua", "Execution
-- under low memory conditions"), also on Redis 6, which has no flag allow-oom. So UNLINK comes first, then the whole record.
redis.call('UNLINK', KEYS[1])
for at = 1, #kept, 2 do
  redis.call('HSET', KEYS[1], kept[at], kept[at + 1])
end
done = write()
if type(done) == 'table' then
  return done
end
return foreign and 2 or 1
