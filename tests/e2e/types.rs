//! Keys hold values exactly as Postgres prints them, whatever the type and the settings of server and session.

use std::fmt::Write as _;

use super::Shop;

/// Column type, SQL value, and the text that belongs into the key.
const TYPES: &[(&str, &str, &str)] = &[
    ("smallint", "-5", "-5"),
    ("integer", "2147483647", "2147483647"),
    ("bigint", "-9223372036854775808", "-9223372036854775808"),
    ("numeric", "1.50", "1.50"),
    ("real", "0.1", "0.1"),
    ("double precision", "0.1 + 0.2::float8", "0.30000000000000004"),
    ("money", "12.34", "$12.34"),
    ("boolean", "true", "t"),
    ("text", "'ä b'", "ä b"),
    ("varchar(5)", "'abc'", "abc"),
    ("char(5)", "'abc'", "abc  "),
    ("name", "'n'", "n"),
    ("\"char\"", "'c'", "c"),
    ("bytea", "'\\xDEAD'", "\\xdead"),
    ("date", "'2026-02-03'", "2026-02-03"),
    ("time", "'04:05:06.7'", "04:05:06.7"),
    ("timetz", "'04:05:06+02'", "04:05:06+02"),
    ("timestamp", "'2026-02-03 04:05:06.789'", "2026-02-03 04:05:06.789"),
    ("timestamptz", "'2026-02-03 04:05:06+01'", "2026-02-03 03:05:06+00"),
    ("interval", "'1 day 2 hours'", "1 day 02:00:00"),
    ("uuid", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ("json", "'{\"a\": 1}'", "{\"a\": 1}"),
    ("jsonb", "'{\"b\":2,\"a\":1}'", "{\"a\": 1, \"b\": 2}"),
    ("inet", "'10.0.0.1/8'", "10.0.0.1/8"),
    ("cidr", "'10.0.0.0/8'", "10.0.0.0/8"),
    ("macaddr", "'08:00:2b:01:02:03'", "08:00:2b:01:02:03"),
    ("macaddr8", "'08:00:2b:01:02:03:04:05'", "08:00:2b:01:02:03:04:05"),
    ("bit(3)", "B'101'", "101"),
    ("varbit", "B'1'", "1"),
    ("point", "'(1,2)'", "(1,2)"),
    ("box", "'(1,2),(0,0)'", "(1,2),(0,0)"),
    ("tsvector", "'a b'", "'a' 'b'"),
    ("xml", "'<a/>'", "<a/>"),
    ("int[]", "'{1,NULL,3}'", "{1,NULL,3}"),
    ("text[]", "ARRAY['a b', 'c']", "{\"a b\",c}"),
    ("int4range", "'[1,5)'", "[1,5)"),
    ("int4multirange", "'{[1,5)}'", "{[1,5)}"),
    ("pg_lsn", "'16/B374D848'", "16/B374D848"),
    ("oid", "42", "42"),
    ("regclass", "'pg_class'", "pg_class"),
    ("mood", "'ok'", "ok"),
    ("pair", "ROW(1,'x')", "(1,x)"),
    ("positive", "3", "3"),
];

#[test]
fn every_type_is_printed_as_postgres_prints_it() {
    let mut schema = "CREATE TYPE mood AS ENUM ('ok'); CREATE TYPE pair AS (a int, b text);
        CREATE DOMAIN positive AS int CHECK (VALUE > 0);
        ALTER DATABASE CURRENT_NAME SET timezone = 'Asia/Tokyo';
        ALTER DATABASE CURRENT_NAME SET datestyle = 'German';
        ALTER DATABASE CURRENT_NAME SET intervalstyle = 'iso_8601';
        ALTER DATABASE CURRENT_NAME SET bytea_output = 'escape';
        ALTER DATABASE CURRENT_NAME SET extra_float_digits = -5;\n"
        .to_owned();
    let mut rules = String::new();
    for (number, (its_type, _, _)) in TYPES.iter().enumerate() {
        writeln!(schema, "CREATE TABLE t{number} (id int PRIMARY KEY, v {its_type});").unwrap();
        writeln!(rules, "  - table: t{number}\n    keys: [\"{number}:{{v}}\"]\n    on_missing_old: skip").unwrap();
    }
    let database = crate::support::Database::create();
    let schema = schema.replace("CURRENT_NAME", &database.name);
    let mut shop = Shop::open_on(database, &schema, &rules);
    let keys: Vec<String> = TYPES.iter().enumerate().map(|(number, (_, _, text))| format!("{number}:{text}")).collect();
    shop.cache(&keys.iter().map(String::as_str).collect::<Vec<_>>());
    let touched_too = keys.clone();
    for (number, (_, value, _)) in TYPES.iter().enumerate() {
        shop.sql.run(&format!("SET datestyle = ISO; INSERT INTO t{number} VALUES (1, {value})"));
    }
    shop.settle();
    assert!(shop.cached().is_empty(), "left over: {:?}", shop.cached());

    shop.cache(&touched_too.iter().map(String::as_str).collect::<Vec<_>>());
    for number in 0..TYPES.len() {
        let publication = shop.database.name.clone();
        shop.sql.run(&format!("SELECT coherd.touch('t{number}', 'true', '{publication}')"));
    }
    shop.settle();
    assert!(shop.cached().is_empty(), "coherd.touch() prints otherwise: {:?}", shop.cached());
}
