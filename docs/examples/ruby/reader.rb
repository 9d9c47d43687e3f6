# frozen_string_literal: true

# Reads through a cache that coherd keeps coherent with Postgres. See docs/reading.md.
#
# If the cache is down or slow, a request waits for a time-out and then reads the database.
# On Redis 6, `coherd lua --eval get` prints the script for EVALSHA, instead of the function.

require "pg"
require "redis"
require "securerandom"

module Reader
  LEASE_MS = 10_000 # more than the slowest read of the database, which statement_timeout bounds
  VALUE_MS = 3_600_000
  PATIENCE_S = 0.2 # how long to wait for another reader that is loading the same key

  module_function

  # The value of a key of a `delete` rule. The block reads the database in a snapshot of its own.
  def leased(cache, key)
    lease = key.match?(/\A[^{]*\{[^}]+\}/) ? "#{key}:lease" : "{#{key}}:lease"
    begin
      found, content = get_or_lease(cache, key, lease)
    rescue Redis::BaseError
      return yield
    end
    return content if found == 1

    value = yield
    begin
      # 0 means refused: the row has changed in the meantime. This reader may still use what it read.
      cache.call("FCALL", "coherd_fill", 2, key, lease, content, VALUE_MS, value)
    rescue Redis::BaseError
      # Not stored.
    end
    value
  end

  # Returns [1, value]; or [0, token], if this reader is first or has waited long enough.
  def get_or_lease(cache, key, lease)
    deadline = Process.clock_gettime(Process::CLOCK_MONOTONIC) + PATIENCE_S
    loop do
      found, content, first = cache.call("FCALL", "coherd_get", 2, key, lease, LEASE_MS, SecureRandom.hex(16))
      late = Process.clock_gettime(Process::CLOCK_MONOTONIC) > deadline
      return [found, content] if found == 1 || first == 1 || late

      sleep 0.01
    end
  end

  # The value of a key of a `bump` rule. The block is as for leased.
  def versioned(cache, key)
    begin
      version = cache.call("FCALL", "coherd_version", 1, "#{key}:version")
      entry = "#{key}:v#{version}"
      cached = cache.get(entry)
    rescue Redis::BaseError
      return yield
    end
    return cached unless cached.nil?

    value = yield
    begin
      cache.set(entry, value, px: VALUE_MS)
    rescue Redis::BaseError
      # Not stored.
    end
    value
  end

  # Like leased, but never older than the commit after which the token was taken. The block reads the primary.
  def own(cache, record, key, token, &load)
    settled = cache.hget(record, "settled").to_i # read before the value, and from the same server
    settled >= token ? leased(cache, key, &load) : yield
  rescue Redis::BaseError
    yield
  end
end

def main
  cache = Redis.new(url: ENV.fetch("REDIS_URL"), connect_timeout: 0.2, timeout: 0.2, reconnect_attempts: 1)
  record = ENV.fetch("COHERD_RECORD", "coherd:coherd") # coherd:<slot>
  # Outside BEGIN each statement is a transaction of its own, so it sees what was committed before it began.
  database = PG.connect(ENV.fetch("DATABASE_URL"))
  database.exec("SET statement_timeout = '5s'")

  row = lambda do |table, id|
    # The row as JSON. A missing row is "null", and is cached as well: coherd invalidates on INSERT too.
    query = "SELECT coalesce((SELECT to_json(t) FROM #{table} t WHERE id = $1), 'null')::text"
    database.exec_params(query, [id]).getvalue(0, 0)
  end
  rename = lambda do |id, name|
    database.exec_params("UPDATE users SET name = $1 WHERE id = $2", [name, id])
    # Take the token after COMMIT, in a transaction of its own. Keep it in the session.
    database.exec("SELECT coherd.token()").getvalue(0, 0)
  end

  $stdout.sync = true
  $stdin.each_line(chomp: true) do |line|
    command, id, argument = line.split
    puts(case command
         when "user" then Reader.leased(cache, "user:#{id}") { row.call("users", id) }
         when "product" then Reader.versioned(cache, "product:#{id}") { row.call("products", id) }
         when "rename" then rename.call(id, argument)
         when "own" then Reader.own(cache, record, "user:#{id}", argument.to_i) { row.call("users", id) }
         end)
  end
end

main if $PROGRAM_NAME == __FILE__
