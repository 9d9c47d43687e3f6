//! Keys contain values exactly as Postgres prints them, for every type and all settings of server and session.

use std::fmt::Write as _;

use super::Shop;

/// Column type, SQL value and expected text in the key, from the rows of the table in docs/rules.md.
fn documented() -> Vec<(&'static str, &'static str, &'static str)> {
    let table = include_str!("../../docs/rules.md").split("| type | value").nth(1).expect("the table of types");
    let cell = |cell: &'static str| cell.trim().trim_matches('`');
    let row = |line: &'static str| {
        let mut cells = line.strip_prefix("| `")?.split(" | ").map(cell);
        Some((cells.next()?, cells.next()?, cells.next()?))
    };
    let rows: Vec<_> = table.lines().skip(2).map_while(row).collect();
    assert!(rows.len() > 40, "{rows:?}");
    rows
}

#[test]
fn every_type_stands_in_keys_as_the_reference_says() {
    let mut schema = "CREATE TYPE mood AS ENUM ('ok'); CREATE TYPE pair AS (a int, b text);
        CREATE DOMAIN positive AS int CHECK (VALUE > 0);
        ALTER DATABASE CURRENT_NAME SET timezone = 'Asia/Tokyo';
        ALTER DATABASE CURRENT_NAME SET datestyle = 'German';
        ALTER DATABASE CURRENT_NAME SET intervalstyle = 'iso_8601';
        ALTER DATABASE CURRENT_NAME SET bytea_output = 'escape';
        ALTER DATABASE CURRENT_NAME SET extra_float_digits = -5;\n"
        .to_owned();
    let mut rules = String::new();
    let types = documented();
    for (number, (its_type, _, _)) in types.iter().enumerate() {
        writeln!(schema, "CREATE TABLE t{number} (id int PRIMARY KEY, v {its_type});").unwrap();
        writeln!(rules, "  - table: t{number}\n    keys: [\"{number}:{{v}}\"]\n    on_missing_old: skip").unwrap();
    }
    let database = crate::support::Database::create();
    let schema = schema.replace("CURRENT_NAME", &database.name);
    let mut shop = Shop::open_on(database, &schema, &rules);
    let keys: Vec<String> = types.iter().enumerate().map(|(number, (_, _, text))| format!("{number}:{text}")).collect();
    shop.cache(&keys.iter().map(String::as_str).collect::<Vec<_>>());
    let touched_too = keys.clone();
    for (number, (_, value, _)) in types.iter().enumerate() {
        shop.sql.run(&format!("SET datestyle = ISO; INSERT INTO t{number} VALUES (1, {value})"));
    }
    shop.settle();
    assert!(shop.cached().is_empty(), "left over: {:?}", shop.cached());

    shop.cache(&touched_too.iter().map(String::as_str).collect::<Vec<_>>());
    for number in 0..types.len() {
        let publication = shop.database.name.clone();
        shop.sql.run(&format!("SELECT coherd.touch('t{number}', 'true', '{publication}')"));
    }
    shop.settle();
    assert!(shop.cached().is_empty(), "coherd.touch() prints otherwise: {:?}", shop.cached());
}
