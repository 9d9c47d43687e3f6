//! docs/manual-fixes.md from top to bottom: every command runs and prints what the guide shows.

use std::process::Command;

use crate::e2e::Shop;
use crate::support::daemon::coherd;

const GUIDE: &str = include_str!("../../docs/manual-fixes.md");

const SCHEMA: &str = "CREATE TABLE users (id int PRIMARY KEY, email text NOT NULL);
    CREATE UNIQUE INDEX users_identity ON users (id, email);
    ALTER TABLE users REPLICA IDENTITY USING INDEX users_identity;
    INSERT INTO users VALUES (1, 'Ann@old.example'), (2, 'bob@old.example'), (3, 'cid@x');
    CREATE TABLE orders (id int PRIMARY KEY, user_id int NOT NULL, total int); ALTER TABLE orders REPLICA IDENTITY FULL;
    INSERT INTO orders VALUES (1, 1, 0), (2, 1, 5), (3, 2, 7), (4, 3, 0);";

struct Block {
    language: &'static str,
    text: &'static str,
}

fn blocks() -> Vec<Block> {
    let parts = GUIDE.split("```").skip(1).step_by(2);
    let block = |part: &'static str| part.split_once('\n').map(|(language, text)| Block { language, text }).unwrap();
    parts.map(block).collect()
}

/// The commands of a block, each with the output that the guide shows.
fn commands(block: &str) -> Vec<(&str, String)> {
    let mut commands: Vec<(&str, String)> = Vec::new();
    for line in block.lines() {
        match (line.strip_prefix("$ "), commands.last_mut()) {
            (Some(command), _) => commands.push((command, String::new())),
            (None, Some((_, said))) => said.extend([line, "\n"]),
            (None, None) => panic!("{line} belongs to no command"),
        }
    }
    commands
}

/// Masks positions and times, which differ in each run.
fn masked(text: &str) -> String {
    let line = |line: &str| {
        let mut words: Vec<&str> = line.split(' ').collect();
        for at in 0..words.len() {
            let position = words[at].trim_end_matches([';', ',']);
            if position.contains('/') && position.parse::<coherd::types::lsn::Lsn>().is_ok() {
                words[at] = "0/0";
            } else if at > 0 && words[at] == "ms" {
                words[at - 1] = "N";
            }
        }
        words.join(" ").trim_end().to_owned()
    };
    text.trim_end().lines().map(line).collect::<Vec<_>>().join("\n")
}

fn run(shop: &mut Shop, command: &str) -> String {
    let folder = shop.daemon.config().parent().unwrap().to_owned();
    if let Some(file) = command.strip_prefix("psql app -1 -f ") {
        let fix = std::fs::read_to_string(folder.join(file)).unwrap();
        shop.sql.run(&format!("BEGIN; {fix}; COMMIT"));
        return String::new();
    }
    if let Some(sql) = command.strip_prefix("psql app -c ") {
        let sql = sql
            .trim_matches('"')
            .replace("wait()", &format!("wait(slot => '{}', timeout => '30s')", shop.database.name));
        return format!(" {}\n", shop.sql.one(&sql));
    }
    let command = command.replace("postgresql://owner@db.internal/app", &format!("'{}'", shop.database.dsn()));
    let folder_of_coherd = std::path::Path::new(&coherd()).parent().unwrap().display().to_string();
    let output = Command::new("sh")
        .args(["-c", &command])
        .current_dir(&folder)
        .env("PATH", format!("{folder_of_coherd}:{}", std::env::var("PATH").unwrap()))
        .env("COHERD_CONFIG", shop.daemon.config())
        .output()
        .unwrap();
    assert!(output.status.success() || command.starts_with("coherd explain"), "{command}: {output:?}");
    String::from_utf8(output.stdout).unwrap().replace(&shop.database.name, "app")
}

#[test]
fn every_command_of_the_guide_to_manual_fixes_prints_what_stands_there() {
    let blocks = blocks();
    let rules = blocks.iter().find(|block| block.language == "yaml").unwrap().text;
    let rules = format!("{}manual: {{keys: any}}\n", rules.strip_prefix("rules:\n").unwrap());
    let mut shop = Shop::open(SCHEMA, &rules);
    let keys = ["user:1", "user:3", "user:by-email:ann@old.example", "orders-of:1", "orders-of:9", "report:2026-11"];
    shop.cache(&keys);
    let () = redis::cmd("EXPIRE").arg("user:1").arg(6000).query(&mut shop.redis.client()).unwrap();
    let mut ran = 0;
    for block in &blocks {
        if let Some(fix) = block.text.strip_prefix("-- fix.sql\n") {
            std::fs::write(shop.daemon.config().with_file_name("fix.sql"), fix).unwrap();
        }
        if block.language != "console" {
            continue;
        }
        for (command, said) in commands(block.text) {
            let got = run(&mut shop, command);
            assert!(masked(&got) == masked(&said), "{command}\nprints\n{got}\nand the guide says\n{said}");
            ran += 1;
        }
    }
    assert_eq!(ran, 10);
    assert_eq!(shop.cached(), ["user:3"]);
}
