//! `coherd schema` against the parser of the configuration: the schema never rejects a valid file, and seldom accepts
//! an invalid one.

use std::path::Path;

use coherd::config::Config;
use coherd::config::schema::{Entry, Shape, entries, schema};
use jsonschema::Validator;
use serde_json::Value;

use crate::docs::{INSTALL, READING, blocks, blocks_of};

const SHIPPED: &str = include_str!("../config/coherd.yaml");

/// A valid file with every section and one rule.
const GOOD: &str = "source: {dsn: 'host=db'}
targets: {cache: {url: 'redis://h/0'}}
rules: [{table: users, keys: ['user:{id}']}]
";

fn validator() -> Validator {
    jsonschema::draft7::new(&schema()).expect("the schema is one")
}

fn document(text: &str) -> Value {
    serde_yaml::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The errors that the schema finds.
fn faults(text: &str) -> Vec<String> {
    let (validator, document) = (validator(), document(text));
    validator.iter_errors(&document).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

/// The errors that the parser finds. No files exist, and variables have their defaults.
fn read(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("/nowhere/c.yaml"), &|_| None).map_err(|error| error.to_string())
}

#[test]
fn the_command_prints_the_schema_without_a_configuration() {
    let printed = std::process::Command::new(crate::support::daemon::coherd())
        .args(["--config", "/no/such.yaml", "schema"])
        .output()
        .unwrap();
    assert_eq!(printed.status.code(), Some(0), "{}", String::from_utf8_lossy(&printed.stderr));
    assert_eq!(serde_json::from_slice::<Value>(&printed.stdout).unwrap(), schema());
    assert!(jsonschema::meta::is_valid(&schema()));
}

/// Collects every example, with the schema of its key.
fn examples<'a>(value: &'a Value, found: &mut Vec<(&'a Value, &'a Value)>) {
    if let Some(example) = value.pointer("/examples/0") {
        found.push((value, example));
    }
    let below = value.as_object().into_iter().flatten().map(|(_, below)| below);
    below.filter(|below| below.is_object()).for_each(|below| examples(below, found));
}

#[test]
fn every_example_in_the_schema_fits_its_key() {
    let (schema, mut found) = (schema(), Vec::new());
    examples(&schema, &mut found);
    assert!(found.len() > 35, "{}", found.len());
    for (key, example) in found {
        assert!(!example.is_null() && jsonschema::draft7::new(key).unwrap().is_valid(example), "{key}");
    }
    let at = |path: &str| schema.pointer(&format!("/properties{path}/examples/0")).cloned().unwrap();
    assert_eq!(at("/limits/properties/max_pending_keys"), 1_000_000);
    assert_eq!(at("/source/properties/messages"), true);
    assert_eq!(at("/rules/items/properties/keys"), serde_json::json!(["user:{id}", "user:by-email:{email|lower}"]));
}

#[test]
fn every_configuration_that_is_shown_to_anybody_fits_the_schema() {
    let help = std::process::Command::new(crate::support::daemon::coherd()).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let lines = help.lines().skip_while(|line| *line != "  source:").take_while(|line| !line.is_empty());
    let mut shown = vec![
        SHIPPED.to_owned(),
        include_str!("../config/minimal.yaml").to_owned(),
        lines.collect::<Vec<_>>().join("\n"),
        GOOD.to_owned(),
        crate::package::manifest::configuration(),
    ];
    shown.extend(blocks("yaml").into_iter().map(str::to_owned));
    shown.extend(blocks_of(INSTALL, "yaml").into_iter().map(str::to_owned));
    // The guide shows rules, and once a target.
    for part in blocks_of(READING, "yaml") {
        let mut head: Vec<&str> =
            GOOD.lines().filter(|line| !part.contains(line.split(':').next().unwrap_or_default())).collect();
        head.push(part);
        shown.push(head.join("\n"));
    }
    assert!(shown.len() > 7, "{}", shown.len());
    for text in shown {
        assert_eq!(faults(&text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn what_the_reader_refuses_for_its_form_the_schema_refuses() {
    let edits = [
        ("source: {", "source: {slt: a, "),
        ("source: {", "source: {slot: [a], "),
        ("source: {", "source: {slot: My-Slot, "),
        ("source: {", "source: {messages: perhaps, "),
        ("source: {", "source: {replicas: host=a, "),
        ("source: {", "source: {wal_budget: 10, "),
        ("source: {", "source: {max_replica_lag: soon, "),
        ("source: {", "source: {dsn_file: a, "),
        ("{dsn: 'host=db'}", "host=db"),
        ("dsn: 'host=db'", "slot: a"),
        ("{url: 'redis://h/0'}", "redis://h/0"),
        ("url:", "uri:"),
        ("cache:", "'ca che':"),
        ("{cache: {url: 'redis://h/0'}}", "{}"),
        ("{cache: {url: 'redis://h/0'}}", "[]"),
        ("redis://h/0'", "redis://h/0', leases: [true]"),
        ("table: users, ", ""),
        ("table: users", "table: users, tabel: x"),
        ("table: users", "table: users, action: dump"),
        ("table: users", "table: users, on_missing_old: perhaps"),
        ("['user:{id}']", "user"),
        ("[{table: users, keys: ['user:{id}']}]", "[]"),
        ("rules:", "rule:"),
        ("rules: [", "on_gap: flsh\nrules: ["),
        ("rules: [", "repeat_after: 5\nrules: ["),
        ("rules: [", "limits: {max_pending_keys: lots}\nrules: ["),
        ("rules: [", "limits: {max_pending_keys: 0}\nrules: ["),
        ("rules: [", "limits: 5\nrules: ["),
        ("rules: [", "log: {format: xml}\nrules: ["),
        ("rules: [", "admin: {ready_max_lag: 10}\nrules: ["),
    ];
    for (from, to) in edits {
        assert!(GOOD.contains(from), "{from}");
        let text = GOOD.replacen(from, to, 1);
        assert!(read(&text).is_err(), "the reader takes\n{text}");
        assert_ne!(faults(&text), Vec::<String>::new(), "the schema takes\n{text}");
    }
}

/// [`GOOD`] with `value` for the key of `entry`.
fn with(entry: &Entry, value: &str) -> String {
    let name = entry.name();
    let put = |line: &str, open: &str| line.replacen(open, &format!("{open}{name}: {value}, "), 1);
    let mut text = String::new();
    for line in GOOD.lines() {
        let line = match entry.path.split(['.', '[']).next().unwrap() {
            "source" if line.starts_with("source") && name != "dsn" => put(line, "source: {"),
            "targets" if line.starts_with("targets") && name != "url" => put(line, "cache: {"),
            "rules" if line.starts_with("rules") && !["table", "keys"].contains(&name) => put(line, "[{"),
            _ => line.to_owned(),
        };
        text.push_str(&line);
        text.push('\n');
    }
    match entry.path.as_str() {
        "source.dsn" => GOOD.replace("'host=db'", value),
        "targets.NAME.url" => GOOD.replace("'redis://h/0'", value),
        "rules[].table" => GOOD.replace("table: users", &format!("table: {value}")),
        "rules[].keys" => GOOD.replace("['user:{id}']", value),
        path if path.starts_with("tests[]") => {
            let others = [("name", "n"), ("expect", "[]")].into_iter().filter(|(other, _)| *other != name);
            let others: Vec<String> = others.map(|(name, value)| format!(", {name}: {value}")).collect();
            let others = others.concat();
            let table =
                if ["insert", "update", "delete", "truncate"].contains(&name) { "" } else { ", truncate: users" };
            format!("{GOOD}tests: [{{{name}: {value}{others}{table}}}]\n")
        }
        path if ["source", "targets", "rules"].iter().any(|its| path.starts_with(its)) => text,
        path => match path.split_once('.') {
            Some((section, name)) => format!("{GOOD}{section}: {{{name}: {value}}}\n"),
            None => format!("{GOOD}{path}: {value}\n"),
        },
    }
}

/// Values of every form. Each key accepts some of them.
const VALUES: &[&str] = &[
    "text",
    "''",
    "7",
    "0",
    "-1",
    "1.5",
    "true",
    "'true'",
    "null",
    "[]",
    "[a]",
    "[[a]]",
    "{}",
    "{a: b}",
    "30s",
    "'30 s'",
    "1day",
    "10GiB",
    "none",
    "'${X:-5}'",
    "'${X:-30s}'",
    "'${X:-true}'",
    "'${X:-flush}'",
    "flush",
    "refuse",
    "bump",
    "json",
    "info",
    "'127.0.0.1:1'",
    "'redis://h'",
    "'user:{id}'",
    "[email]",
    "[cache]",
    "9999999999",
];

#[test]
fn no_key_and_no_value_that_the_reader_takes_is_refused_by_the_schema() {
    let validator = validator();
    let (mut taken, mut keys) = (0, 0);
    for entry in entries().iter().filter(|entry| !matches!(entry.shape, Shape::Fields(_))) {
        keys += 1;
        for value in VALUES {
            let text = with(entry, value);
            assert!(text.contains(value), "{}: {text}", entry.path);
            if read(&text).is_ok() {
                taken += 1;
                assert!(validator.is_valid(&document(&text)), "the schema refuses\n{text}{:?}", faults(&text));
            }
        }
    }
    assert!(keys > 35 && taken > 5 * keys, "{keys} keys, {taken} values");
}

#[test]
fn a_value_of_another_form_is_refused_by_both_for_every_key() {
    let validator = validator();
    for entry in entries().iter().filter(|entry| !matches!(entry.shape, Shape::Fields(_))) {
        for value in ["{a: b}", "[[a]]"] {
            // These take any names.
            if value == "{a: b}" && ["tests[].old", "tests[].new", "tests[].types"].contains(&entry.path.as_str()) {
                continue;
            }
            let text = with(entry, value);
            assert!(read(&text).is_err(), "the reader takes\n{text}");
            assert!(!validator.is_valid(&document(&text)), "the schema takes\n{text}");
        }
    }
}

#[test]
fn every_key_of_the_shipped_file_is_in_the_schema_and_the_other_way_round() {
    let known: Vec<String> = entries().iter().map(|entry| entry.name().to_owned()).collect();
    // Uncommented keys that the schema does not know would be faults here; the loop below covers those that are
    // commented out.
    assert_eq!(faults(SHIPPED), Vec::<String>::new());
    let commented = SHIPPED.lines().filter_map(|line| line.trim_start().strip_prefix("# ")?.split_once(':'));
    let is_key = |text: &str| text.contains('_') && text.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let commented: Vec<&str> = commented.map(|(key, _)| key).filter(|key| is_key(key)).collect();
    assert!(commented.len() >= 5, "{commented:?}");
    for key in commented {
        assert!(known.iter().any(|name| name == key), "{key} is in config/coherd.yaml and not in the schema");
    }
    // `every_section_is_known_and_every_key_has_words_and_a_value` checks each entry's description and value.
    for entry in entries() {
        assert!(!entry.about.is_empty(), "{} is in the schema and not in config/coherd.yaml", entry.path);
    }
}
