//! The tables that rules name. A row's number decides its key, and a key's value is made of all its rows. So exactly
//! one value is right at any time, and every change makes another.

use std::fmt::Write;

use super::caches::NAMES;

/// One table, its rule, and the SQL that finds the rows of a key.
pub struct Table {
    pub name: &'static str,
    pub create: &'static str,
    pub rule: &'static str,
    /// The caches that hold its keys, as indexes into `caches::NAMES`.
    pub caches: &'static [usize],
    /// The prefix of a key. Its number, or the address made of it, follows.
    prefix: &'static str,
    /// SQL for the part of a row's key after the prefix.
    rest: &'static str,
    /// The columns of an INSERT, and the SQL that makes them from a number `n`.
    columns: &'static str,
    made_of_n: &'static str,
    /// SQL that changes a row's number to `n`, as an assignment.
    renamed: &'static str,
    /// Numbers range from zero to below this.
    pub numbers: u32,
    pub reader: Reader,
}

/// Where readers find the entry of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// Under the key itself.
    Plain,
    /// Under the key and its version pointer.
    Versioned,
}

/// In the order of their indexes.
pub const TABLES: &[Table] = &[
    Table {
        name: "users",
        create: "CREATE TABLE users (id int PRIMARY KEY, v bigint NOT NULL DEFAULT nextval('v'))",
        rule: "keys: [\"user:{id}\"]",
        caches: &[0, 1],
        prefix: "user:",
        rest: "id::text",
        columns: "id",
        made_of_n: "n",
        renamed: "id = n",
        numbers: 5000,
        reader: Reader::Plain,
    },
    Table {
        name: "accounts",
        create: "CREATE TABLE accounts (id bigserial PRIMARY KEY, email text NOT NULL UNIQUE, v bigint NOT NULL DEFAULT nextval('v'));
            CREATE INDEX ON accounts (lower(email)); ALTER TABLE accounts REPLICA IDENTITY USING INDEX accounts_email_key",
        rule: "keys: [\"account:{email|lower}\"]",
        caches: &[1],
        prefix: "account:",
        rest: "lower(email)",
        columns: "email",
        made_of_n: "CASE WHEN random() < 0.5 THEN 'u' ELSE 'U' END || n || '@x'",
        renamed: "email = CASE WHEN random() < 0.5 THEN 'u' ELSE 'U' END || n || '@x'",
        numbers: 2000,
        reader: Reader::Plain,
    },
    Table {
        name: "items",
        create: "CREATE TABLE items (id bigserial PRIMARY KEY, order_id int NOT NULL, v bigint NOT NULL DEFAULT nextval('v'));
            CREATE INDEX ON items (order_id); ALTER TABLE items REPLICA IDENTITY FULL",
        rule: "keys: [\"order:{order_id}\"]",
        caches: &[0],
        prefix: "order:",
        rest: "order_id::text",
        columns: "order_id",
        made_of_n: "n",
        renamed: "order_id = n",
        numbers: 1000,
        reader: Reader::Plain,
    },
    Table {
        name: "products",
        create: "CREATE TABLE products (id int PRIMARY KEY, v bigint NOT NULL DEFAULT nextval('v'))",
        rule: "keys: [\"product:{id}\"]\n    action: bump",
        caches: &[0, 1],
        prefix: "product:",
        rest: "id::text",
        columns: "id",
        made_of_n: "n",
        renamed: "id = n",
        numbers: 2000,
        reader: Reader::Versioned,
    },
    Table {
        name: "events",
        create: "CREATE TABLE events (id int, region int, v bigint NOT NULL DEFAULT nextval('v'), PRIMARY KEY (id, region)) PARTITION BY LIST (region);
            CREATE TABLE events_0 PARTITION OF events FOR VALUES IN (0); CREATE TABLE events_1 PARTITION OF events DEFAULT",
        rule: "keys: [\"event:{id}\"]",
        caches: &[0, 1],
        prefix: "event:",
        rest: "id::text",
        columns: "id, region",
        made_of_n: "n, (random() * 2)::int",
        renamed: "id = n, region = (random() * 2)::int",
        numbers: 2000,
        reader: Reader::Plain,
    },
];

/// SQL for the tables of the rules, a sequence of unique values, and tables that no rule names.
pub fn schema() -> String {
    let mut sql =
        "CREATE SEQUENCE v; CREATE TABLE logs (id bigserial PRIMARY KEY, line text); CREATE TABLE noise (n int);"
            .to_owned();
    for table in TABLES {
        let all: Vec<u32> = (0..table.numbers / 2).collect();
        write!(sql, "{}; {};", table.create, table.insert(&all)).unwrap();
    }
    sql
}

/// The entries of `rules:`.
pub fn rules() -> String {
    TABLES.iter().fold(String::from("rules:\n"), |yaml, Table { name, rule, caches, .. }| {
        let targets: Vec<&str> = caches.iter().map(|&one| NAMES[one]).collect();
        format!("{yaml}  - table: {name}\n    {rule}\n    targets: [{}]\n", targets.join(", "))
    })
}

impl Table {
    /// The key of a number.
    pub fn key(&self, number: u32) -> String {
        format!("{}{}", self.prefix, self.rest_of(number))
    }

    fn rest_of(&self, number: u32) -> String {
        if self.name == "accounts" { format!("u{number}@x") } else { number.to_string() }
    }

    /// The table whose prefix the key has.
    pub fn of_key(key: &str) -> Option<&'static Table> {
        TABLES.iter().find(|table| key.starts_with(table.prefix))
    }

    fn matching(&self, numbers: &[u32]) -> String {
        let rest: Vec<String> = numbers.iter().map(|&number| self.rest_of(number)).collect();
        let (column, kind) = match self.name {
            "accounts" => ("lower(email)", "text"),
            "items" => ("order_id", "int"),
            _ => ("id", "int"),
        };
        format!("{column} = ANY ('{{{}}}'::{kind}[])", rest.join(","))
    }

    pub fn insert(&self, numbers: &[u32]) -> String {
        let Table { name, columns, made_of_n, .. } = self;
        format!(
            "INSERT INTO {name} ({columns}) SELECT {made_of_n} FROM unnest('{{{}}}'::int[]) n ON CONFLICT DO NOTHING",
            join(numbers)
        )
    }

    pub fn update(&self, numbers: &[u32]) -> String {
        format!("UPDATE {} SET v = nextval('v') WHERE {}", self.name, self.matching(numbers))
    }

    pub fn delete(&self, numbers: &[u32]) -> String {
        format!("DELETE FROM {} WHERE {}", self.name, self.matching(numbers))
    }

    /// SQL that gives the rows of one key to another key, or moves them to another partition. Fails if the number is
    /// taken.
    pub fn rename(&self, from: u32, to: u32) -> String {
        let Table { name, renamed, .. } = self;
        let matching = self.matching(&[from]);
        format!("UPDATE {name} SET {renamed}, v = nextval('v') FROM (SELECT {to} AS n) AS new WHERE {matching}")
    }

    pub fn touch(&self, number: u32, publication: &str) -> String {
        let predicate = self.matching(&[number]).replace('\'', "''");
        format!("SELECT coherd.touch('{}', '{predicate}', '{publication}')", self.name)
    }

    /// SQL for key and value of `numbers`, or of all numbers. Keys without rows are left out.
    pub fn values(&self, numbers: Option<&[u32]>) -> String {
        let Table { name, prefix, rest, .. } = self;
        let condition = numbers.map_or("true".to_owned(), |numbers| self.matching(numbers));
        format!(
            "SELECT '{prefix}' || {rest}, string_agg(v::text, ',' ORDER BY v) FROM {name} WHERE {condition} GROUP BY 1"
        )
    }
}

fn join(numbers: &[u32]) -> String {
    let text: Vec<String> = numbers.iter().map(u32::to_string).collect();
    text.join(",")
}
