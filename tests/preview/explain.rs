//! `coherd explain`: which rules and rows make a key.

use insta::assert_snapshot;

use crate::e2e::Shop;
use crate::support::daemon::text;

const SCHEMA: &str = "CREATE TABLE users (id int PRIMARY KEY, name text, email text);
    CREATE TABLE items (id int PRIMARY KEY, order_id int NOT NULL, qty int); ALTER TABLE items REPLICA IDENTITY FULL;
    CREATE TABLE products (id int PRIMARY KEY);";
const RULES: &str =
    "  - table: users\n    keys: [\"user:{id}\", \"user:by-email:{email|lower}\"]\n    on_missing_old: skip\n
  - table: items\n    keys: [\"order:{order_id}\"]\n    when_changed: [qty]\n
  - table: products\n    keys: [\"product:{id}\"]\n    action: bump\n
  - table: products\n    keys: [\"{schema}.{table}:{id|md5}\"]\n    scope: \"public.*\"\n";

fn explained(shop: &Shop, key: &str) -> String {
    let output = shop.daemon.command(&["explain", key]);
    format!("exit {}\n{}", output.status.code().unwrap(), text(&output).replace(&shop.database.name, "app"))
}

#[test]
fn a_key_is_explained_by_its_rules_rows_and_what_leaves_it_stale() {
    let shop = Shop::open(SCHEMA, RULES);
    shop.cache(&["user:by-email:ann@x"]);
    assert_snapshot!(explained(&shop, "user:by-email:ann@x"), @r#"
    exit 0
    rules[0] public.users
      template  user:by-email:{email|lower}, delete in cache
      column    email|lower is ann@x (text)
      rows      lower(email::text) = 'ann@x'
      covered   yes
      caveats   a DELETE, or an UPDATE of email, leaves the key of the old row: its value is not in the log (on_missing_old: skip)
                a row in which email is NULL has no such key
                a value that also depends on tables other than public.users goes stale when those change, unless rules for them make the key

    KEY                  ACTION  FROM  CACHE
    user:by-email:ann@x  delete        yes, no TTL

    1 key, 1 cached now in cache
    "#);
    assert_snapshot!(explained(&shop, "order:7"), @r#"
    exit 0
    rules[1] public.items
      template  order:{order_id}, delete in cache
      column    order_id is 7 (integer)
      rows      order_id = '7'
      covered   yes
      caveats   an UPDATE that changes none of order_id, qty is ignored (when_changed)
                a value that also depends on tables other than public.items goes stale when those change, unless rules for them make the key

    KEY      ACTION  FROM  CACHE
    order:7  delete        no

    1 key, 0 cached now in cache
    "#);
    assert_snapshot!(explained(&shop, "product:4"), @r#"
    exit 0
    rules[2] public.products
      template  product:{id}, bump in cache
      column    id is 4 (integer)
      rows      id = '4'
      covered   yes
      caveats   the rule moves the version pointer and removes nothing: a reader whose key does not contain the version gets an old value (action: bump)
                a value that also depends on tables other than public.products goes stale when those change, unless rules for them make the key

    KEY        ACTION  FROM             CACHE
    product:4  delete                   no
    product:4  bump    public.products  no

    2 keys, 0 cached now in cache
    "#);
}

#[test]
fn a_key_that_no_rule_makes_is_told_with_what_flushes_it() {
    let shop = Shop::open(SCHEMA, RULES);
    // `|lower` produces no upper-case letter, and x is not an MD5 hash.
    assert_snapshot!(explained(&shop, "user:by-email:Ann@x"), @r#"
    exit 1
    no rule makes user:by-email:Ann@x: no change in Postgres removes it. Only a flush of rules[0] public.users covers it, as after TRUNCATE or a gap.
    By hand: coherd invalidate 'user:by-email:Ann@x'

    KEY                  ACTION  FROM  CACHE
    user:by-email:Ann@x  delete        no

    1 key, 0 cached now in cache
    "#);
    assert_snapshot!(explained(&shop, "public.products:x"), @r#"
    exit 1
    no rule makes public.products:x: no change in Postgres removes it. Only a flush of rules[3] public.products covers it, as after TRUNCATE or a gap.
    By hand: coherd invalidate 'public.products:x'

    KEY                ACTION  FROM  CACHE
    public.products:x  delete        no

    1 key, 0 cached now in cache
    "#);
    assert_snapshot!(explained(&shop, "it's"), @r#"
    exit 1
    no rule makes it's: no change in Postgres removes it.
    By hand, once manual.keys is any: coherd invalidate 'it'\''s'

    KEY   ACTION  FROM  CACHE
    it's  delete        no

    1 key, 0 cached now in cache
    "#);
}

#[test]
fn a_table_that_is_not_covered_now_is_told_with_what_repairs_it() {
    let mut shop = Shop::open(SCHEMA, RULES);
    let name = shop.database.name.clone();
    shop.sql.run(&format!("ALTER PUBLICATION {name} DROP TABLE items"));
    let said = explained(&shop, "order:7");
    assert!(said.contains("covered   NO") && said.contains("it is not in publication app"), "{said}");
    let told = super::told(&shop, &["explain", "order:7"]);
    assert_eq!(told["rules"][0]["covered"], false, "{told}");
    assert_eq!(told["rules"][0]["rows"], "order_id = '7'");
    shop.daemon.edit(&format!("127.0.0.1:{}/", shop.database.server.port()), "127.0.0.1:1/");
    let output = shop.daemon.command(&["explain", "order:7"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("covered   not known"), "{}", text(&output));
}

#[test]
fn the_type_of_a_column_is_told_with_the_text_that_it_has_in_keys() {
    let schema = "CREATE TABLE flags (id int PRIMARY KEY, active boolean, code char(4), doc json);
        INSERT INTO flags VALUES (1, true, 'ab', '{}'), (2, false, 'ab', '[]')";
    let rules = "  - table: flags\n    keys: [\"f:{active|upper}:{code}:{doc}\"]\n    on_missing_old: skip\n";
    let mut shop = Shop::open(schema, rules);
    let said = super::told(&shop, &["explain", "f:T:ab  :{}"]);
    let rows = said["rules"][0]["rows"].as_str().unwrap();
    assert_eq!(shop.sql.one(&format!("SELECT string_agg(id::text, ' ') FROM flags WHERE {rows}")), "1", "{rows}");
    let shown: Vec<String> =
        explained(&shop, "f:T:ab  :{}").lines().skip(2).take(5).map(|line| line.trim().to_owned()).collect();
    assert_snapshot!(shown.join("\n"), @r"
    template  f:{active|upper}:{code}:{doc}, delete in cache
    column    active|upper is T (boolean, in keys as t or f, not true or false)
    column    code is ab   (character(4), in keys padded with blanks to its length; |trim removes them)
    column    doc is {} (json, in keys as it was written, blanks included)
    rows      upper(format('%s', active)) = 'T' AND code = 'ab  ' AND format('%s', doc) = '{}'
    ");
}
