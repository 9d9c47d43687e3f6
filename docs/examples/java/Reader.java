import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.URI;
import java.security.SecureRandom;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.time.Duration;
import java.util.HexFormat;
import java.util.List;
import java.util.Optional;
import java.util.regex.Pattern;
import redis.clients.jedis.DefaultJedisClientConfig;
import redis.clients.jedis.HostAndPort;
import redis.clients.jedis.JedisPooled;
import redis.clients.jedis.exceptions.JedisException;
import redis.clients.jedis.params.SetParams;

/**
 * Reads through a cache that coherd keeps coherent with Postgres. See docs/reading.md.
 *
 * <p>If the cache is down or slow, a request waits for a time-out and then reads the database. On Redis 6,
 * {@code coherd lua --eval get} prints the script for {@code evalsha}, instead of the function.
 */
public final class Reader {
    /** More than the slowest read of the database, which statement_timeout bounds. */
    private static final Duration LEASE = Duration.ofSeconds(10);

    private static final Duration VALUE = Duration.ofHours(1);

    /** How long to wait for another reader that is loading the same key. */
    private static final Duration PATIENCE = Duration.ofMillis(200);

    private static final Pattern HASH_TAG = Pattern.compile("^[^{]*\\{[^}]+\\}");
    private static final SecureRandom RANDOM = new SecureRandom();

    /** Reads the database in a snapshot of its own. */
    @FunctionalInterface
    public interface Load {
        String get() throws SQLException;
    }

    private final JedisPooled cache;
    private final String record;

    /** {@code record} is {@code coherd:<slot>}. */
    public Reader(JedisPooled cache, String record) {
        this.cache = cache;
        this.record = record;
    }

    /** The value of a key of a {@code delete} rule. */
    public String leased(String key, Load load) throws SQLException {
        boolean tagged = HASH_TAG.matcher(key).find();
        List<String> keys = List.of(key, tagged ? key + ":lease" : "{" + key + "}:lease");
        String token;
        try {
            List<?> reply = getOrLease(keys);
            String content = (String) reply.get(1);
            if (reply.get(0).equals(1L)) {
                return content;
            }
            token = content;
        } catch (JedisException away) {
            return load.get();
        }
        String value = load.get();
        try {
            // 0 means refused: the row has changed in the meantime. This reader may still use what it read.
            cache.fcall("coherd_fill", keys, List.of(token, Long.toString(VALUE.toMillis()), value));
        } catch (JedisException away) {
            // Not stored.
        }
        return value;
    }

    /** Returns {1, value}; or {0, token, first}, if this reader is first or has waited long enough. */
    private List<?> getOrLease(List<String> keys) {
        long began = System.nanoTime();
        while (true) {
            byte[] nonce = new byte[16];
            RANDOM.nextBytes(nonce);
            List<String> arguments = List.of(Long.toString(LEASE.toMillis()), HexFormat.of().formatHex(nonce));
            List<?> reply = (List<?>) cache.fcall("coherd_get", keys, arguments);
            boolean late = System.nanoTime() - began > PATIENCE.toNanos();
            if (reply.get(0).equals(1L) || reply.get(2).equals(1L) || late) {
                return reply;
            }
            try {
                Thread.sleep(10);
            } catch (InterruptedException interrupted) {
                Thread.currentThread().interrupt();
                return reply;
            }
        }
    }

    /** The value of a key of a {@code bump} rule. */
    public String versioned(String key, Load load) throws SQLException {
        String entry;
        try {
            entry = key + ":v" + cache.fcall("coherd_version", List.of(key + ":version"), List.of());
            String cached = cache.get(entry);
            if (cached != null) {
                return cached;
            }
        } catch (JedisException away) {
            return load.get();
        }
        String value = load.get();
        try {
            cache.set(entry, value, SetParams.setParams().px(VALUE.toMillis()));
        } catch (JedisException away) {
            // Not stored.
        }
        return value;
    }

    /**
     * Like {@link #leased}, but never older than the commit after which the token was taken. {@code load} reads the
     * primary.
     */
    public String own(String key, long token, Load load) throws SQLException {
        long settled;
        try {
            // Read before the value, and from the same server.
            settled = Optional.ofNullable(cache.hget(record, "settled")).map(Long::parseLong).orElse(0L);
        } catch (JedisException away) {
            return load.get();
        }
        return settled >= token ? leased(key, load) : load.get();
    }

    /** With autocommit each statement is a transaction of its own, so it sees what was committed before it began. */
    private static String row(Connection database, String table, String id) throws SQLException {
        // The row as JSON. A missing row is "null", and is cached as well: coherd invalidates on INSERT too.
        String query = "SELECT coalesce((SELECT to_json(t) FROM " + table + " t WHERE id = ?), 'null')::text";
        try (var statement = database.prepareStatement(query)) {
            statement.setLong(1, Long.parseLong(id));
            return only(statement.executeQuery());
        }
    }

    private static String rename(Connection database, String id, String name) throws SQLException {
        try (var statement = database.prepareStatement("UPDATE users SET name = ? WHERE id = ?")) {
            statement.setString(1, name);
            statement.setLong(2, Long.parseLong(id));
            statement.executeUpdate();
        }
        // Take the token after COMMIT, in a transaction of its own. Keep it in the session.
        try (var statement = database.prepareStatement("SELECT coherd.token()")) {
            return only(statement.executeQuery());
        }
    }

    private static String only(ResultSet rows) throws SQLException {
        rows.next();
        return rows.getString(1);
    }

    public static void main(String[] args) throws Exception {
        URI url = URI.create(System.getenv("REDIS_URL"));
        var config = DefaultJedisClientConfig.builder().connectionTimeoutMillis(200).socketTimeoutMillis(200).build();
        var cache = new JedisPooled(new HostAndPort(url.getHost(), url.getPort()), config);
        var reader = new Reader(cache, System.getenv().getOrDefault("COHERD_RECORD", "coherd:coherd"));
        var database = DriverManager.getConnection(System.getenv("DATABASE_URL")); // jdbc:postgresql:, autocommit
        try (var statement = database.createStatement()) {
            statement.execute("SET statement_timeout = '5s'");
        }
        var lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            String[] words = line.split(" ");
            String id = words[1];
            System.out.println(switch (words[0]) {
                case "user" -> reader.leased("user:" + id, () -> row(database, "users", id));
                case "product" -> reader.versioned("product:" + id, () -> row(database, "products", id));
                case "rename" -> rename(database, id, words[2]);
                case "own" -> {
                    long token = Long.parseLong(words[2]);
                    yield reader.own("user:" + id, token, () -> row(database, "users", id));
                }
                default -> throw new IllegalArgumentException(line);
            });
        }
        cache.close();
        database.close();
    }
}
