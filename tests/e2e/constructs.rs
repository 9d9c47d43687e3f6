//! Conditions, variables, arrays, JSON, hashes and filters with arguments, on real rows.

use super::Shop;

const POSTS: &str =
    "CREATE TABLE posts (id int PRIMARY KEY, live bool, score numeric, tags text[], data jsonb, day date,
        title text);
    ALTER TABLE posts REPLICA IDENTITY FULL;";

fn posts(rule: &str) -> Shop {
    Shop::open(POSTS, &format!("  - table: posts\n{rule}\n"))
}

/// With only the primary key in old rows.
fn posts_by_key(rule: &str) -> Shop {
    let schema = POSTS.replace("REPLICA IDENTITY FULL", "REPLICA IDENTITY DEFAULT");
    Shop::open(&schema, &format!("  - table: posts\n{rule}\n"))
}

#[test]
fn a_row_that_enters_or_leaves_the_condition_counts_and_others_do_not() {
    let mut shop = posts("    where: live AND score > 9.5\n    keys: ['post:{id}']");
    shop.sql.run("INSERT INTO posts (id, live, score) VALUES (1, false, 5), (2, true, 10.0), (3, true, NULL)");
    shop.settle();
    shop.cache(&["post:1", "post:2", "post:3"]);
    let all = ["post:1", "post:2", "post:3"];
    assert_eq!(shop.left_after("UPDATE posts SET title = 'x' WHERE id IN (1, 3)"), all, "never inside");
    assert_eq!(shop.left_after("DELETE FROM posts WHERE id = 3"), all, "NULL is not true");
    assert_eq!(shop.left_after("UPDATE posts SET score = 9.5 WHERE id = 2"), ["post:1", "post:3"], "it leaves");
    assert_eq!(shop.left_after("UPDATE posts SET live = true, score = 11 WHERE id = 1"), ["post:3"], "it enters");
    shop.cache(&["post:1"]);
    assert_eq!(shop.left_after("DELETE FROM posts WHERE id = 1"), ["post:3"]);
    assert!(shop.left_after("TRUNCATE posts").is_empty(), "a flush asks no condition");
}

#[test]
fn without_the_condition_s_column_in_the_old_row_a_change_counts() {
    let mut shop = posts_by_key("    where: live\n    keys: ['post:{id}']");
    shop.sql.run("INSERT INTO posts (id, live) VALUES (1, false)");
    shop.settle();
    shop.cache(&["post:1"]);
    assert!(shop.left_after("UPDATE posts SET title = 'x'").is_empty(), "it may have been live before");
    shop.cache(&["post:1"]);
    assert!(shop.left_after("DELETE FROM posts").is_empty());
    shop.cache(&["post:2"]);
    assert_eq!(shop.left_after("INSERT INTO posts (id, live) VALUES (2, false)"), ["post:2"], "there was no old row");
}

#[test]
fn each_element_of_an_array_old_and_new_has_a_key() {
    let mut shop = posts("    keys: ['tag:{tags[]}', 'label:{data->labels[]}']");
    let insert =
        r#"INSERT INTO posts (id, tags, data) VALUES (1, ARRAY['a', 'b "c"', NULL], '{"labels": ["x", "y"]}')"#;
    shop.cache(&["tag:a", "tag:b \"c\"", "tag:d", "tag:", "label:x", "label:y", "label:z"]);
    assert_eq!(shop.left_after(insert), ["label:z", "tag:", "tag:d"]);
    shop.cache(&["tag:a", "tag:b \"c\"", "label:x"]);
    let update = r#"UPDATE posts SET tags = ARRAY['d'], data = '{"labels": ["z"]}'"#;
    assert_eq!(shop.left_after(update), ["tag:"]);
    shop.cache(&["tag:d", "label:z"]);
    assert_eq!(shop.left_after("UPDATE posts SET tags = NULL, data = NULL"), ["tag:"]);
    shop.cache(&["tag:d"]);
    assert_eq!(shop.left_after("DELETE FROM posts"), ["tag:", "tag:d"], "a row without tags");
}

#[test]
fn variables_filters_with_arguments_and_hashes_make_the_application_s_keys() {
    let rule = "    vars: { lang: [en, fr] }
    keys: ['p:{id|pad:4}:{lang}', 'day:{day|date:%Y-%m}', 'live:{live|bool:yes,no}', 'title:{title|default:none}', 'b:{title|base64}']";
    let mut shop = posts(rule);
    shop.cache(&["p:0007:en", "p:0007:fr", "p:0007:de", "day:2026-02", "live:no", "live:yes", "title:none", "title:Ä"]);
    shop.cache(&["b:w4Q="]);
    let left = shop.left_after("INSERT INTO posts (id, live, day) VALUES (7, false, '2026-02-28')");
    assert_eq!(left, ["b:w4Q=", "live:yes", "p:0007:de", "title:Ä"]);
    assert_eq!(shop.left_after("UPDATE posts SET title = 'Ä', live = NULL"), ["live:yes", "p:0007:de"]);
    shop.cache(&["title:none", "day:2026-03"]);
    assert_eq!(
        shop.left_after("UPDATE posts SET day = 'infinity'"),
        ["live:yes", "p:0007:de", "title:none"],
        "no month"
    );

    let mut hashed = posts("    keys: ['q:{id}:{title}']\n    hash: md5");
    let key = format!("q:{}", hashed.sql.one("SELECT md5('7:x')"));
    hashed.cache(&[&key, "q:7:x", "q:"]);
    assert_eq!(hashed.left_after("INSERT INTO posts (id, title) VALUES (7, 'x')"), ["q:", "q:7:x"]);
    hashed.cache(&[&key]);
    assert_eq!(hashed.left_after("UPDATE posts SET title = NULL"), ["q:", "q:7:x"], "of the old row");
    hashed.cache(&[&key]);
    assert!(hashed.left_after("DELETE FROM posts").contains(&key), "a row with a NULL has no key");
    assert!(hashed.left_after("TRUNCATE posts").is_empty());
}

/// A value that an UPDATE leaves unchanged and that is stored outside the row is in the log only with FULL.
#[test]
fn an_unchanged_value_outside_the_row_is_taken_from_the_old_row_or_flushes() {
    let schema = "CREATE TABLE big (id int PRIMARY KEY, n int, tags text[], data jsonb);
        ALTER TABLE big ALTER tags SET STORAGE EXTERNAL, ALTER data SET STORAGE EXTERNAL;";
    let full = "ALTER TABLE big REPLICA IDENTITY FULL;";
    let rules = "  - {table: big, where: \"data->>'kind' = 'a'\", keys: ['tag:{tags[]}'], on_missing_old: flush}\n";
    let fill = "ARRAY['x', repeat('y', 9000)], jsonb_build_object('kind', kind, 'fill', repeat('z', 9000))";
    let insert = format!("INSERT INTO big SELECT id, 0, {fill} FROM (VALUES (1, 'a'), (2, 'b')) AS v (id, kind)");
    let filled = |schema: &str| {
        let mut shop = Shop::open(schema, rules);
        shop.sql.run(&insert);
        shop.settle();
        shop.cache(&["tag:x", "tag:other"]);
        shop
    };
    let mut whole = filled(&format!("{schema}{full}"));
    assert_eq!(whole.left_after("UPDATE big SET n = 1 WHERE id = 2"), ["tag:other", "tag:x"], "of another kind");
    assert_eq!(whole.left_after("UPDATE big SET n = 1 WHERE id = 1"), ["tag:other"], "FULL logs what is unchanged");
    let mut narrow = filled(schema);
    assert!(
        narrow.left_after("UPDATE big SET n = 2 WHERE id = 2").is_empty(),
        "neither its kind nor its tags are known"
    );
}

/// A placeholder, and the values that it stands for as a query over the row `r`.
const PLACEHOLDERS: &[(&str, &str)] = &[
    ("{id}", "SELECT r.id::text"),
    ("{id|pad:4}", "SELECT lpad(r.id::text, 4, '0')"),
    ("{live|bool:yes,no}", "SELECT CASE WHEN r.live THEN 'yes' WHEN NOT r.live THEN 'no' END"),
    ("{score}", "SELECT r.score::text"),
    ("{score|default:none}", "SELECT coalesce(r.score::text, 'none')"),
    ("{tags[]}", "SELECT unnest(r.tags)"),
    ("{tags[]|upper}", "SELECT upper(unnest(r.tags))"),
    ("{data->>theme}", "SELECT r.data->>'theme'"),
    ("{data->>'n'|default:0}", "SELECT coalesce(r.data->>'n', '0')"),
    ("{data->labels[]}", "SELECT jsonb_array_elements_text(r.data->'labels')"),
    ("{data->labels->>1}", "SELECT r.data->'labels'->>1"),
    ("{day|date:%Y-%m}", "SELECT to_char(r.day, 'YYYY-MM')"),
    ("{day|date:%G-W%V}", "SELECT to_char(r.day, 'IYYY\"-W\"IW')"),
    ("{title|base64}", "SELECT encode(convert_to(r.title, 'UTF8'), 'base64')"),
    ("{title|md5}", "SELECT md5(r.title)"),
    ("{title|hex}", "SELECT encode(convert_to(r.title, 'UTF8'), 'hex')"),
    ("{lang}", "SELECT unnest(ARRAY['en', 'fr'])"),
];

/// Conditions that coherd can decide.
const CONDITIONS: &[&str] = &[
    "live",
    "live IS NOT TRUE",
    "live = false",
    "score > 1",
    "score <= 10.00",
    "score IN (0, 1.50)",
    "score NOT IN (0, 7)",
    "id <> 2",
    "id IN (1, 3)",
    "title IS NULL",
    "tags IS NOT NULL",
    "day IS NULL",
    "data->>'theme' = 'dark'",
    "data->>'theme' LIKE 'da%'",
    "data->>'n' = '5'",
    "data->>'theme' IS NULL",
];

const ROWS: &[(&str, &[&str])] = &[
    ("live", &["true", "false", "NULL"]),
    ("score", &["0", "1.50", "10", "7.25", "NULL"]),
    ("tags", &["'{}'", "'{a}'", "ARRAY['a', 'b c', NULL]", "ARRAY['\"q\"', 'NULL']", "NULL"]),
    (
        "data",
        &[
            "'{\"theme\": \"dark\", \"n\": 5, \"labels\": [\"x\", \"y\"]}'",
            "'{\"theme\": \"light\", \"labels\": []}'",
            "'{\"theme\": null, \"n\": \"5\"}'",
            "NULL",
        ],
    ),
    ("day", &["'2026-01-01'", "'2024-12-30'", "NULL"]),
    ("title", &["''", "'x'", "'Ünïcode \"q\"'", "NULL"]),
];

struct Random {
    /// As YAML.
    rule: String,
    /// The keys of the row `r`, as a query with the column `key`.
    keys: String,
    condition: String,
}

fn condition(rng: &mut fastrand::Rng, depth: u32) -> String {
    let simple = |rng: &mut fastrand::Rng| CONDITIONS[rng.usize(..CONDITIONS.len())].to_owned();
    match rng.u32(..6) {
        _ if depth == 0 => simple(rng),
        0 | 1 => format!("({} AND {})", condition(rng, depth - 1), condition(rng, depth - 1)),
        2 | 3 => format!("({} OR {})", condition(rng, depth - 1), condition(rng, depth - 1)),
        4 => format!("NOT ({})", condition(rng, depth - 1)),
        _ => simple(rng),
    }
}

fn random_rule(rng: &mut fastrand::Rng, number: usize) -> Random {
    let pieces: Vec<_> = (0..rng.usize(1..=3)).map(|_| PLACEHOLDERS[rng.usize(..PLACEHOLDERS.len())]).collect();
    let template: Vec<&str> = pieces.iter().map(|(placeholder, _)| *placeholder).collect();
    let condition = condition(rng, 2);
    let hashed = rng.u32(..4) == 0;
    let vars = if template.contains(&"{lang}") { "vars: {lang: [en, fr]}, " } else { "" };
    let hash = if hashed { "hash: md5, " } else { "" };
    let quoted = |text: &str| text.replace('\'', "''");
    let rule = format!(
        "  - {{table: posts, {vars}{hash}where: '{}', keys: ['r{number}:{}']}}\n",
        quoted(&condition),
        quoted(&template.join(":"))
    );
    // In a template, a variable has one value at a time.
    let mut seen_lang = false;
    let (mut parts, mut from) = (Vec::new(), Vec::new());
    for (place, (placeholder, query)) in pieces.iter().enumerate() {
        if *placeholder == "{lang}" {
            parts.push("lang.v".to_owned());
            if !std::mem::replace(&mut seen_lang, true) {
                from.push(format!("LATERAL ({query}) AS lang (v)"));
            }
        } else {
            parts.push(format!("p{place}.v"));
            from.push(format!("LATERAL ({query}) AS p{place} (v)"));
        }
    }
    let text = parts.join(" || ':' || ");
    let key = if hashed { format!("md5({text})") } else { text };
    Random { rule, keys: format!("SELECT 'r{number}:' || {key} AS key FROM {}", from.join(", ")), condition }
}

impl Random {
    /// The keys of `rows` (a relation with the columns of posts), whether or not the condition holds; or none at all if it
    /// holds for no row.
    fn expected(&self, rows: &str, always: bool) -> String {
        let Random { keys, condition, .. } = self;
        let holds =
            if always { "true".to_owned() } else { format!("EXISTS (SELECT FROM {rows} AS r WHERE {condition})") };
        format!("SELECT k.key FROM {rows} AS r, LATERAL ({keys}) AS k WHERE k.key IS NOT NULL AND {holds}")
    }
}

fn keys_of(shop: &mut Shop, rules: &[Random], rows: &str, always: bool) -> Vec<String> {
    let all: Vec<String> = rules.iter().map(|rule| rule.expected(rows, always)).collect();
    let mut keys: Vec<String> =
        shop.sql.rows(&all.join(" UNION ")).into_iter().map(|mut row| row.swap_remove(0)).collect();
    keys.sort();
    keys
}

fn random_change(rng: &mut fastrand::Rng, id: u32) -> String {
    let value = |rng: &mut fastrand::Rng, values: &[&str]| values[rng.usize(..values.len())].to_owned();
    match rng.u32(..5) {
        0 => format!("DELETE FROM posts WHERE id = {id}"),
        1 | 2 => {
            let (column, values) = ROWS[rng.usize(..ROWS.len())];
            format!("UPDATE posts SET {column} = {} WHERE id = {id}", value(rng, values))
        }
        _ => {
            let columns: Vec<&str> = ROWS.iter().map(|(column, _)| *column).collect();
            let values: Vec<String> = ROWS.iter().map(|(_, values)| value(rng, values)).collect();
            let set: Vec<String> =
                columns.iter().zip(&values).map(|(column, value)| format!("{column} = {value}")).collect();
            format!(
                "INSERT INTO posts (id, {}) VALUES ({id}, {}) ON CONFLICT (id) DO UPDATE SET {}",
                columns.join(", "),
                values.join(", "),
                set.join(", ")
            )
        }
    }
}

/// The server itself says which keys the old and the new row have, and whether the condition holds for one of them.
#[test]
fn random_rules_invalidate_exactly_the_keys_that_sql_gives_for_the_old_and_the_new_row() {
    let seed =
        std::env::var("COHERD_RULES_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("COHERD_RULES_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let rules: Vec<Random> = (0..40).map(|number| random_rule(&mut rng, number)).collect();
    let text: String = rules.iter().map(|rule| rule.rule.as_str()).collect();
    let mut shop = Shop::open(POSTS, &text);
    let (mut changes, mut removed) = (0, 0);
    for _ in 0..60 {
        let id = rng.u32(1..=3);
        let change = random_change(&mut rng, id);
        shop.sql.run("DROP TABLE IF EXISTS before; CREATE TABLE before AS SELECT * FROM posts");
        let others = keys_of(&mut shop, &rules, "posts", true);
        shop.sql.run(&change);
        let both = format!("(SELECT * FROM before WHERE id = {id} UNION ALL SELECT * FROM posts WHERE id = {id})");
        shop.settle();
        // What the change removes is already gone: the cache is filled before a second one that changes nothing else.
        let candidates = keys_of(&mut shop, &rules, &both, true);
        let expected = keys_of(&mut shop, &rules, &both, false);
        let mut filled: Vec<String> = candidates.into_iter().chain(others).collect();
        filled.sort();
        filled.dedup();
        shop.sql.run(&format!(
            "BEGIN; DELETE FROM posts WHERE id = {id}; INSERT INTO posts SELECT * FROM before WHERE id = {id}; COMMIT"
        ));
        shop.settle();
        shop.cache(&filled.iter().map(String::as_str).collect::<Vec<_>>());
        let left = shop.left_after(&change);
        filled.retain(|key| !expected.contains(key));
        assert_eq!(left, filled, "{change}\nseed {seed}\n{text}");
        changes += 1;
        removed += expected.len();
        let () = redis::cmd("DEL").arg(&left).arg("-").query(&mut shop.redis.client()).unwrap();
    }
    assert!(removed > changes, "{removed} keys of {changes} changes");
}
