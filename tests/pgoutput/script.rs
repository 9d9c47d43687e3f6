//! SQL that makes pgoutput send every kind of message of protocol 1.

/// Run before the slot exists. The toasted values are longer than a quarter of a page and are not compressed.
pub const BEFORE: &str = r#"
CREATE TABLE users (id int PRIMARY KEY, email text, note text);
CREATE TABLE sessions (id int, token text NOT NULL UNIQUE, note text);
ALTER TABLE sessions REPLICA IDENTITY USING INDEX sessions_token_key;
CREATE TABLE prices (sku text, amount numeric(10, 2), at timestamptz);
ALTER TABLE prices REPLICA IDENTITY FULL;
CREATE TABLE log (line text);
ALTER TABLE log REPLICA IDENTITY NOTHING;

CREATE TABLE pages (id int PRIMARY KEY, title text, body text);
CREATE TABLE drafts (id int, title text, body text);
ALTER TABLE drafts REPLICA IDENTITY FULL;
ALTER TABLE pages ALTER body SET STORAGE EXTERNAL;
ALTER TABLE drafts ALTER body SET STORAGE EXTERNAL;
INSERT INTO pages VALUES (1, 'one', repeat('x', 2100));
INSERT INTO drafts VALUES (1, 'one', repeat('y', 2100));

CREATE TYPE mood AS ENUM ('sad', 'it''s fine');
CREATE TYPE place AS (street text, number int);
CREATE DOMAIN email AS text CHECK (VALUE LIKE '%@%');
CREATE TABLE typed (id uuid PRIMARY KEY, mood mood, home place, mail email, tags text[], raw bytea, doc jsonb, ok bool);

CREATE TABLE events (day date, id int, what text, PRIMARY KEY (day, id)) PARTITION BY RANGE (day);
CREATE TABLE events_june PARTITION OF events FOR VALUES FROM ('2024-06-01') TO ('2024-07-01');
CREATE TABLE events_july PARTITION OF events FOR VALUES FROM ('2024-07-01') TO ('2024-08-01');

CREATE TABLE parents (id int PRIMARY KEY);
CREATE TABLE children (id int PRIMARY KEY, parent int REFERENCES parents);
CREATE TABLE others (id serial PRIMARY KEY);

CREATE SCHEMA "Odd ""Schema""";
CREATE TABLE "Odd ""Schema"""."Tä ble" ("Key {1}" int PRIMARY KEY, "a""b" text, "select" text);
SELECT pg_replication_origin_create('elsewhere');
"#;

/// Each step: a description and its SQL, which is one transaction unless the step says otherwise.
pub const STEPS: &[(&str, &str)] = &[
    (
        "default identity: insert, with NULL and the empty string",
        "INSERT INTO users VALUES (1, 'Ann@X', NULL), (2, '', '')",
    ),
    ("default identity: update that leaves the key alone", "UPDATE users SET email = 'ann@y' WHERE id = 1"),
    ("default identity: update of the key", "UPDATE users SET id = 3 WHERE id = 1"),
    ("default identity: delete", "DELETE FROM users WHERE id = 2"),
    ("identity by index: insert", "INSERT INTO sessions VALUES (NULL, 'a b', 'x')"),
    ("identity by index: update that leaves the index alone", "UPDATE sessions SET id = 1"),
    ("identity by index: update of the index", "UPDATE sessions SET token = 'c', note = NULL"),
    ("identity by index: delete", "DELETE FROM sessions"),
    ("full identity: insert", "INSERT INTO prices VALUES ('s-1', 9.5, '2024-06-01 12:00:00+00'), ('s-2', NULL, NULL)"),
    ("full identity: update", "UPDATE prices SET amount = amount + 1 WHERE sku = 's-1'"),
    ("full identity: update of a row with NULLs", "UPDATE prices SET amount = 0 WHERE sku = 's-2'"),
    ("full identity: delete", "DELETE FROM prices"),
    ("no identity: insert", r"INSERT INTO log VALUES (E'two\nlines\t{brace} \\ ü')"),
    ("unchanged toast, default identity", "UPDATE pages SET title = 'two'"),
    ("unchanged toast, default identity, update of the key", "UPDATE pages SET id = 2"),
    ("unchanged toast, full identity", "UPDATE drafts SET title = 'two'"),
    (
        "user's types",
        r#"INSERT INTO typed VALUES ('c0ffee00-0000-4000-8000-000000000001', 'it''s fine', ROW('Main "St", 1', NULL),
           'a@b', '{a,"b c",NULL}', '\x00ff', '{"b": 1, "a": [null]}', true)"#,
    ),
    ("partitions under their root: insert", "INSERT INTO events VALUES ('2024-06-05', 1, 'a'), ('2024-07-05', 2, 'b')"),
    ("partitions under their root: a row moves to another one", "UPDATE events SET day = '2024-07-09' WHERE id = 1"),
    ("partitions under their root: a row is deleted from a leaf", "DELETE FROM events_july WHERE id = 2"),
    ("truncate of two tables, restart identity cascade", "TRUNCATE parents, others RESTART IDENTITY CASCADE"),
    ("truncate of a partitioned table", "TRUNCATE events"),
    (
        "message in a transaction",
        r#"BEGIN; INSERT INTO log VALUES ('before');
           SELECT pg_logical_emit_message(true, 'coherd', '{"v":1,"do":"invalidate","keys":["by-hand:1"]}');
           COMMIT"#,
    ),
    (
        "message outside of the transaction that it was written in, with any bytes",
        r"BEGIN; INSERT INTO log VALUES ('before'); SELECT pg_logical_emit_message(false, 'of another', '\x00ff'::bytea);
          COMMIT",
    ),
    (
        "transaction that came from another node",
        "SELECT pg_replication_origin_session_setup('elsewhere'); BEGIN;
         SELECT pg_replication_origin_xact_setup('0/CAFE', '2024-06-01 12:00:00+00');
         INSERT INTO log VALUES ('theirs'); COMMIT",
    ),
    ("names that need quotes", r#"INSERT INTO "Odd ""Schema"""."Tä ble" VALUES (1, 'x', 'y')"#),
    (
        "column added and one dropped between two changes of a transaction",
        "BEGIN; INSERT INTO users VALUES (10, 'a', 'b'); ALTER TABLE users ADD COLUMN age int DEFAULT 7;
         ALTER TABLE users DROP COLUMN note; UPDATE users SET age = 8 WHERE id = 10; COMMIT",
    ),
    (
        "savepoint rolled back, and a row touched twice",
        "BEGIN; SAVEPOINT s; INSERT INTO users VALUES (20, 'never', 1); ROLLBACK TO s;
         INSERT INTO users VALUES (21, 'first', 1); UPDATE users SET email = 'second' WHERE id = 21; COMMIT",
    ),
    ("row without columns", "CREATE TABLE bare (); INSERT INTO bare DEFAULT VALUES"),
];
