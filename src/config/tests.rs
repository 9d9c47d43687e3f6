//! The messages that a user sees when the file is invalid.

use std::path::Path;
use std::time::Duration;

use secrecy::ExposeSecret;

use super::raw::{RawAdmin, RawLimits, RawLog, RawSource, RawTarget, SECTIONS};
use super::schema::fields_of;
use super::*;
use crate::rules::config::RawRule;

const GOOD: &str = "source: {dsn: 'host=db password=hunter2'}
targets: {cache: {url: 'redis://:hunter2@h/0'}}
rules: [{table: users, keys: ['user:{id}']}]
";

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("c.yaml"), &|name| (name == "PW").then(|| "hunter2".to_owned()))
}

fn error(text: &str) -> String {
    let error = parse(text).unwrap_err();
    for shown in [error.to_string(), format!("{error:?}")] {
        assert!(!shown.contains("hunter2"), "a secret is shown: {shown}");
    }
    error.to_string()
}

/// The error for [`GOOD`] with `old` replaced by `new`.
fn broken(old: &str, new: &str) -> String {
    assert!(GOOD.contains(old), "{old}");
    error(&GOOD.replace(old, new))
}

#[test]
fn a_short_file_has_every_default() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config.source.dsn.expose_secret(), "host=db password=hunter2");
    assert_eq!((config.source.slot.as_str(), config.source.publication.as_str()), ("coherd", "coherd"));
    assert!(config.source.messages);
    assert_eq!(config.source.wal_budget, Some(10 << 30));
    let target = &config.targets[0];
    assert_eq!((target.name.as_str(), target.scheme.as_str()), ("cache", "redis"));
    assert_eq!(target.url.expose_secret(), "redis://:hunter2@h/0");
    assert_eq!(target.version_ttl, Duration::from_hours(24));
    assert!(!target.leases);
    assert_eq!((target.record.as_str(), target.channel.as_str()), ("coherd:coherd", "coherd:coherd:invalidations"));
    assert_eq!((config.on_gap, config.on_first_start), (OnGap::Flush, OnFirstStart::Keep));
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:9871");
    assert_eq!(config.log, Log { format: LogFormat::Auto, level: "info".into() });
}

#[test]
fn leases_are_for_targets_whose_kind_has_them() {
    let config = |leases: &str| GOOD.replace("'redis://:hunter2@h/0'", &format!("'redis://h', leases: {leases}"));
    assert!(parse(&config("true")).unwrap().targets[0].leases);
    assert!(!parse(&config("false")).unwrap().targets[0].leases);
    assert!(error(&config("maybe")).contains("targets.cache.leases"), "{}", error(&config("maybe")));
}

#[test]
fn record_and_channel_follow_the_slot() {
    let config = parse(&GOOD.replace("source: {", "source: {slot: shop, ")).unwrap();
    assert_eq!(config.targets[0].record, "coherd:shop");
    assert_eq!(config.targets[0].channel, "coherd:shop:invalidations");
}

#[test]
fn the_shipped_files_are_good_and_say_the_defaults() {
    let env = |_: &str| None;
    let minimal = Config::parse(include_str!("../../config/minimal.yaml"), Path::new("minimal.yaml"), &env).unwrap();
    let full = Config::parse(include_str!("../../config/coherd.yaml"), Path::new("coherd.yaml"), &env).unwrap();
    assert_eq!(minimal.rules.len(), 2);
    assert_eq!(full.rules.len(), 4);
    let settled = |config: &Config| {
        let Config { source, targets, .. } = config;
        let SourceConfig {
            slot,
            publication,
            publish,
            replicas,
            max_replica_lag,
            wal_budget,
            decoding_timeout,
            slot_create_timeout,
            messages,
            ..
        } = source;
        let mut targets = targets.clone();
        for target in &mut targets {
            target.url = String::new().into();
            target.url_file = None;
        }
        let rest = (
            config.on_gap,
            config.on_first_start,
            config.repeat_after,
            config.limits,
            config.admin.clone(),
            config.log.clone(),
        );
        format!(
            "{slot} {publication} {publish:?} {replicas:?} {max_replica_lag:?} {wal_budget:?} {decoding_timeout:?} {slot_create_timeout:?} {messages} {targets:?} {rest:?}"
        )
    };
    assert_eq!(settled(&minimal), settled(&full));
}

#[test]
fn the_shipped_file_names_every_key() {
    let text = include_str!("../../config/coherd.yaml");
    let sections = [
        fields_of::<RawSource>(),
        fields_of::<RawTarget>(),
        fields_of::<RawRule>(),
        fields_of::<RawLimits>(),
        fields_of::<RawAdmin>(),
        fields_of::<RawLog>(),
    ];
    assert!(sections.iter().all(|fields| !fields.is_empty()));
    for name in sections.iter().flatten().map(|field| field.name).chain(SECTIONS.iter().copied()) {
        let named = |line: &str| {
            line.trim_start_matches([' ', '#', '-']).strip_prefix(name).is_some_and(|rest| rest.starts_with(':'))
        };
        assert!(text.lines().any(named), "config/coherd.yaml does not name {name}");
    }
}

#[test]
fn variables_are_put_in_after_parsing() {
    let env = |name: &str| match name {
        "DSN" => Some("host=db password='#: \"'".to_owned()),
        "LIMIT" => Some("7".to_owned()),
        _ => None,
    };
    let text = "source: {dsn: \"${DSN}\", messages: ${MESSAGES:-false}}
targets: {cache: {url: '${URL:-redis://h}'}}
rules: [{table: users, keys: ['user:${id}', 'x:$${Y}:{id}']}]
limits: {max_pending_keys: \"${LIMIT}\"}
";
    let config = Config::parse(&text.replace("${MESSAGES:-false}", "'${MESSAGES:-false}'"), Path::new("c.yaml"), &env);
    let config = config.unwrap();
    assert_eq!(config.source.dsn.expose_secret(), "host=db password='#: \"'");
    assert!(!config.source.messages);
    assert_eq!(config.targets[0].url.expose_secret(), "redis://h");
    assert_eq!(config.limits.max_pending_keys, 7);
    assert_eq!(config.rules[0].keys[0].text(), "user:${id}");
}

#[test]
fn yaml_that_is_none_has_a_position_and_no_snippet() {
    insta::assert_snapshot!(broken("keys: [", "keys: {"), @r#"c.yaml:3:30: this is not YAML: mismatched bracket '{' closed by ']'"#);
    insta::assert_snapshot!(broken("dsn: 'host=db password=hunter2'", "dsn: host=db password=hunter2: x"), @r#"c.yaml:1:39: this is not YAML: while parsing a flow mapping, did not find expected ',' or '}'"#);
    insta::assert_snapshot!(error("source: \"hunter2"), @r#"c.yaml:1:9: this is not YAML: unclosed quote"#);
    insta::assert_snapshot!(error(""), @r#"c.yaml:1:1: the file wants a mapping with source, targets and rules, and got nothing"#);
    insta::assert_snapshot!(error("hunter2"), @r#"c.yaml:1:1: the file wants a mapping with source, targets and rules, and got a single value"#);
    insta::assert_snapshot!(error(&format!("{GOOD}---\n{GOOD}")), @r#"c.yaml:5:1: a second document begins here (---); a configuration is one document"#);
}

#[test]
fn a_key_that_stands_twice_is_refused() {
    insta::assert_snapshot!(error(&format!("{GOOD}source: {{}}\n")), @r#"c.yaml:4:1: the key `source` stands here a second time; keep one"#);
}

#[test]
fn unknown_fields_are_told_all_at_once_with_the_nearest_known() {
    insta::assert_snapshot!(broken("source: {", "source: {publicaton: x, slt: y, "), @r#"
    c.yaml:1:10: source.publicaton: unknown field `publicaton`, did you mean `publication`? known: dsn, dsn_file, slot, publication, publish, replicas, max_replica_lag, wal_budget, decoding_timeout, slot_create_timeout, messages
    c.yaml:1:25: source.slt: unknown field `slt`, did you mean `slot`? known: dsn, dsn_file, slot, publication, publish, replicas, max_replica_lag, wal_budget, decoding_timeout, slot_create_timeout, messages
    "#);
    insta::assert_snapshot!(error(&format!("{GOOD}target: {{}}\non_gaps: flush\n")), @r#"
    c.yaml:4:1: target: unknown field `target`, did you mean `targets`? known: source, targets, rules, tests, on_gap, on_first_start, repeat_after, manual, limits, admin, log
    c.yaml:5:1: on_gaps: unknown field `on_gaps`, did you mean `on_gap`? known: source, targets, rules, tests, on_gap, on_first_start, repeat_after, manual, limits, admin, log
    "#);
    insta::assert_snapshot!(error(&format!("{GOOD}redis://:hunter2@h/0: x\n")), @r#"c.yaml:4:1: …: unknown field `…`; known: source, targets, rules, tests, on_gap, on_first_start, repeat_after, manual, limits, admin, log"#);
    insta::assert_snapshot!(broken("table: users", "table: users, tabel: x"), @r#"c.yaml:3:24: rules[0].tabel: unknown field `tabel`, did you mean `table`? known: name, table, keys, where, vars, hash, action, when_changed, targets, on_missing_old, scope"#);
}

#[test]
fn a_wrong_type_says_what_is_wanted() {
    insta::assert_snapshot!(broken("source: {", "source: {slot: [a], "), @r#"c.yaml:1:16: source.slot: this wants text, and got a list"#);
    insta::assert_snapshot!(broken("source: {", "source: {messages: perhaps, "), @r#"c.yaml:1:20: source.messages: this wants true or false, and got `perhaps`"#);
    insta::assert_snapshot!(broken("{dsn: 'host=db password=hunter2'}", "hunter2"), @r#"c.yaml:1:9: source: this wants a mapping, and got a single value"#);
    insta::assert_snapshot!(error(&format!("{GOOD}limits: {{max_pending_keys: lots}}\n")), @r#"c.yaml:4:28: limits.max_pending_keys: this wants a whole number, 0 or more, and got `lots`"#);
    insta::assert_snapshot!(error(&format!("{GOOD}limits: {{max_pending_keys: '${{PW}}', flush_keys_per_second: 0}}\n")), @r#"c.yaml:4:28: limits.max_pending_keys: this wants a whole number, 0 or more, and the environment gave something else"#);
    insta::assert_snapshot!(broken("table: users", "table: users, action: dump"), @r#"c.yaml:3:32: rules[0].action: unknown value `dump`, did you mean `bump`? known: delete, bump, publish"#);
    insta::assert_snapshot!(error(&format!("{GOOD}on_gap: flsh\n")), @r#"c.yaml:4:9: on_gap: unknown value `flsh`, did you mean `flush`? known: flush, halt"#);
}

#[test]
fn what_is_missing_or_empty_says_what_to_write() {
    insta::assert_snapshot!(broken("dsn: 'host=db password=hunter2'", "slot: a"), @r#"c.yaml:1:9: source.dsn: it is missing; write e.g. postgresql://coherd@db.internal:5432/app?sslmode=verify-full, or name a file that holds it in dsn_file"#);
    insta::assert_snapshot!(broken("table: users, ", ""), @r#"c.yaml:3:9: rules[0]: `table` is missing"#);
    insta::assert_snapshot!(error("source: {dsn: a}\ntargets: {}\nrules: []\n"), @r#"
    c.yaml:2:10: targets: it is empty; write targets: {cache: {url: "redis://127.0.0.1:6379/0"}}
    c.yaml:3:8: rules: it is empty; write rules: [{table: public.users, keys: ["user:{id}"]}]
    "#);
    insta::assert_snapshot!(error("log: {level: info}\n"), @r#"
    c.yaml:1:1: source: it is missing; write source: {dsn: "postgresql://coherd@db.internal:5432/app?sslmode=verify-full"}
    c.yaml:1:1: targets: it is missing; write targets: {cache: {url: "redis://127.0.0.1:6379/0"}}
    c.yaml:1:1: rules: it is missing; write rules: [{table: public.users, keys: ["user:{id}"]}]
    "#);
    insta::assert_snapshot!(error("source:\ntargets:\nrules:\n"), @r#"
    c.yaml:1:1: source: it is missing; write source: {dsn: "postgresql://coherd@db.internal:5432/app?sslmode=verify-full"}
    c.yaml:2:8: targets: it is empty; write targets: {cache: {url: "redis://127.0.0.1:6379/0"}}
    c.yaml:3:6: rules: it is empty; write rules: [{table: public.users, keys: ["user:{id}"]}]
    "#);
}

#[test]
fn a_wrong_value_says_which_ones_are_right() {
    insta::assert_snapshot!(broken("'redis://:hunter2@h/0'", "'redis://h', version_ttl: 1day, reply_timeout: 0s"), @r#"
    c.yaml:2:50: targets.cache.version_ttl: `1day` is no duration: write a whole number and a unit, e.g. 500ms, 30s, 5m, 24h, 7d
    c.yaml:2:71: targets.cache.reply_timeout: it is zero; write a duration above it, e.g. 5s
    "#);
    insta::assert_snapshot!(broken("source: {", "source: {slot: My-Slot, "), @r#"c.yaml:1:16: source.slot: `My-Slot` is no slot name: Postgres allows 1 to 63 lower-case letters, digits and underscores"#);
    insta::assert_snapshot!(error(&format!("{GOOD}admin: {{listen: localhost}}\nlog: {{level: 'a=b=c'}}\n")), @r#"
    c.yaml:4:17: admin.listen: this is no address: write an IP address and a port, e.g. 127.0.0.1:9871 or [::1]:9871
    c.yaml:5:14: log.level: this is no level: write error, warn, info, debug or trace, or directives such as info,coherd::targets=debug
    "#);
    insta::assert_snapshot!(broken("'redis://:hunter2@h/0'", "'redis://h', cert_file: a"), @r#"c.yaml:2:48: targets.cache.cert_file: a client certificate comes with its key; give key_file too"#);
    insta::assert_snapshot!(broken("cache:", "'ca che':"), @r#"c.yaml:2:11: targets.ca che: a target's name is 1 to 63 letters, digits, `-` and `_`, e.g. cache"#);
    insta::assert_snapshot!(broken("'redis://:hunter2@h/0'", "'redis+x://:hunter2@h/0'"), @r#"c.yaml:2:24: targets.cache.url: unknown scheme `redis+x`, did you mean `redis`? known: redis, rediss, redis+unix, unix, valkey, valkeys, valkey+unix; the scheme names the kind of target"#);
    insta::assert_snapshot!(broken("'redis://:hunter2@h/0'", "':hunter2@h:6379'"), @r#"c.yaml:2:24: targets.cache.url: it has no scheme, and the scheme names the kind of target; begin it with one of redis://, rediss://, redis+unix://, unix://, valkey://, valkeys://, valkey+unix://"#);
    insta::assert_snapshot!(broken("table: users", "table: users, targets: [cash]"), @r#"c.yaml:3:33: rules[0].targets: there is no target "cash"; did you mean "cache"? known: cache"#);
}

#[test]
fn replicas_are_dsns_and_their_lag_is_at_least_a_second() {
    let config =
        parse(&GOOD.replace("source: {", "source: {replicas: ['host=r1', 'host=r2'], max_replica_lag: 5s, ")).unwrap();
    assert_eq!((config.source.replicas.len(), config.source.max_replica_lag), (2, Duration::from_secs(5)));
    let lag = |text: &str| parse(&GOOD.replace("source: {", &format!("source: {{max_replica_lag: {text}, ")));
    insta::assert_snapshot!(lag("500ms").unwrap_err(), @r#"c.yaml:1:27: source.max_replica_lag: it is below 1s, and coherd asks an idle replica only once a second"#);
    insta::assert_snapshot!(lag("much").unwrap_err(), @r#"c.yaml:1:27: source.max_replica_lag: `much` is no duration: write a whole number and a unit, e.g. 500ms, 30s, 5m, 24h, 7d"#);
}

#[test]
fn a_repetition_is_soon_or_not_at_all() {
    let pause = |text: &str| parse(&format!("{GOOD}repeat_after: {text}\n"));
    assert_eq!(pause("0s").unwrap().repeat_after, Duration::ZERO);
    assert_eq!(pause("1500ms").unwrap().repeat_after, Duration::from_millis(1500));
    insta::assert_snapshot!(pause("2m").unwrap_err(), @r#"c.yaml:4:15: repeat_after: it is above 1m; the keys to invalidate again are kept in memory"#);
    insta::assert_snapshot!(pause("soon").unwrap_err(), @r#"c.yaml:4:15: repeat_after: `soon` is no duration: write a whole number and a unit, e.g. 500ms, 30s, 5m, 24h, 7d"#);
}

#[test]
fn a_decoding_timeout_is_at_least_a_second() {
    let timeout = |text: &str| parse(&GOOD.replace("source: {", &format!("source: {{decoding_timeout: {text}, ")));
    assert_eq!(timeout("5m").unwrap().source.decoding_timeout, Duration::from_mins(5));
    assert_eq!(parse(GOOD).unwrap().source.decoding_timeout, Duration::from_mins(1));
    insta::assert_snapshot!(timeout("900ms").unwrap_err(), @"c.yaml:1:28: source.decoding_timeout: it is below 1s, and an error that passes by itself would cost a flush of every scope");
}

#[test]
fn a_wal_budget_has_a_unit_and_is_above_zero_or_none() {
    let budget = |text: &str| parse(&GOOD.replace("source: {", &format!("source: {{wal_budget: {text}, ")));
    assert_eq!(budget("512MiB").unwrap().source.wal_budget, Some(512 << 20));
    assert_eq!(budget("none").unwrap().source.wal_budget, None);
    insta::assert_snapshot!(budget("10").unwrap_err(), @r#"c.yaml:1:22: source.wal_budget: `10` is no size: write a whole number and a unit, e.g. 512MiB, 10GiB, 1TiB (by 1024) or 500MB, 10GB, 1TB (by 1000), or none for any amount"#);
    insta::assert_snapshot!(budget("0GiB").unwrap_err(), @r#"c.yaml:1:22: source.wal_budget: it is zero, which would give the slot up at once; write a size above it, or none for any amount"#);
    insta::assert_snapshot!(budget("unlimited").unwrap_err(), @r#"c.yaml:1:22: source.wal_budget: `unlimited` is no size: write a whole number and a unit, e.g. 512MiB, 10GiB, 1TiB (by 1024) or 500MB, 10GB, 1TB (by 1000), or none for any amount"#);
}

#[test]
fn an_unset_variable_has_a_position() {
    insta::assert_snapshot!(broken("'redis://:hunter2@h/0'", "'redis://:${REDIS_PASSWORD}@h/0'"), @r#"c.yaml:2:24: targets.cache.url: the environment variable REDIS_PASSWORD is not set; set it, or write ${REDIS_PASSWORD:-default}"#);
}

#[test]
fn a_secret_is_given_once() {
    insta::assert_snapshot!(broken("dsn: 'host=db password=hunter2'", "dsn: a, dsn_file: b"), @r#"c.yaml:1:28: source.dsn_file: `dsn` is given too; keep one of them"#);
    insta::assert_snapshot!(broken("dsn: 'host=db password=hunter2'", "dsn_file: no/such/file"), @r#"c.yaml:1:20: source.dsn_file: cannot read no/such/file: No such file or directory (os error 2)"#);
}

#[test]
fn a_file_that_is_not_there_says_how_to_name_another() {
    let error = Config::load(Path::new("/no/such.yaml"), &|_| None).unwrap_err();
    insta::assert_snapshot!(error, @r#"/no/such.yaml: there is no such file; write one, or name another with --config FILE or COHERD_CONFIG (No such file or directory (os error 2))"#);
}

#[test]
fn a_secret_comes_from_a_file_beside_the_configuration_without_its_last_line_break() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("dsn"), "host=db password=hunter2\n\n").unwrap();
    let path = folder.path().join("c.yaml");
    std::fs::write(&path, GOOD.replace("dsn: 'host=db password=hunter2'", "dsn_file: dsn")).unwrap();
    let config = Config::load(&path, &|_| None).unwrap();
    assert_eq!(config.source.dsn.expose_secret(), "host=db password=hunter2\n");
}

#[test]
fn no_secret_is_shown_by_debug() {
    let shown = format!("{:?}", parse(GOOD).unwrap());
    assert!(!shown.contains("hunter2"), "{shown}");
}
