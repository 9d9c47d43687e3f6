//! `coherd check` reports everything in one run, and never reports "could not check" as "fine".

pub mod bench;
mod cache;
mod creation;
mod edited;
mod published;
mod server;
mod tables;
mod way;

use coherd::cli::check::{fine, json, text};
use coherd::postgres::survey::Look;
use coherd::postgres::survey::prerequisites::prerequisites;
use coherd::types::database::Database as Seen;
use coherd::types::finding::{CODES, Code, Finding};
use coherd::types::server::{Clock, Hosting};
use coherd::types::slot::Slot;

use crate::catalog::Session;
use crate::setup::Config;
use crate::support::Database;

/// Findings that no statement or command fixes, and why.
const NO_REMEDY: &[(&str, &str)] = &[
    ("source-dsn", "the configuration is edited"),
    ("source-unreachable", "a server is started, or the configuration edited"),
    ("source-refused", "the role, its password or pg_hba.conf is changed, as the server's own words say"),
    ("source-unreadable", "the catalogue can be read by everybody; a server that breaks off is one that is away"),
    ("replication-refused", "as source-refused"),
    ("pooler", "the configuration is edited"),
    ("other-server", "the configuration is edited"),
    ("clock", "whoever runs the machine sets its clock"),
    ("server-version", "another server"),
    ("standby-version", "another server"),
    ("encoding", "another database"),
    ("slot-physical", "somebody else's slot is not dropped: the configuration is edited"),
    ("slot-database", "somebody else's slot is not dropped: the configuration is edited"),
    ("slot-plugin", "somebody else's slot is not dropped: the configuration is edited"),
    ("slot-two-phase", "somebody else's slot is not dropped: the configuration is edited"),
    ("identity-virtual", "which key the table is to have is its owner's to choose"),
    ("table-missing", "the configuration is edited"),
    ("table-partition", "the configuration is edited"),
    ("table-kind", "the configuration is edited"),
    ("table-temporary", "it ends with its session, so a check from another one finds none of that name"),
    ("table-hypertable", "the configuration is edited: tests/e2e/inheritance.rs"),
    ("table-empty-tree", "the bounds of a partition are its owner's to choose"),
    ("column-missing", "the configuration is edited"),
    ("column-generated", "the configuration is edited"),
    ("leaf-future", "it is about partitions that do not exist yet"),
    ("scope-wide", "the configuration is edited"),
    ("scope-record", "the configuration is edited"),
    ("scope-foreign", "the configuration is edited"),
    ("key-conflict", "the configuration is edited"),
    ("key-record", "the configuration is edited"),
    ("target-unused", "the configuration is edited"),
    ("replica-unreachable", "a server is started, or the configuration edited"),
    ("replica-refused", "as source-refused"),
    ("replica-foreign", "the configuration is edited"),
    ("replica-primary", "the configuration is edited"),
    ("target-unreachable", "a server is started, or the configuration edited"),
    ("target-refused", "the configuration is edited"),
    ("target-version", "another server"),
    ("target-cluster", "another server"),
    ("target-read-only", "the configuration is edited"),
    ("target-command", "the server's configuration is edited, and it is started again"),
    ("record-foreign", "the configuration is edited: tests/e2e/sharing.rs"),
    ("library-unsupported", "another server, or readers that use scripts"),
    ("setup-refused", "only coherd setup says it, with the statements that it was refused: tests/setup.rs"),
    ("setup-standby", "only coherd setup says it: tests/setup.rs"),
    ("setup-record", "only coherd setup says it: tests/setup.rs"),
];

/// A new code needs a case that carries out its remedy, or a reason why there is none.
#[test]
fn every_finding_is_repaired_as_printed_or_has_a_reason_why_not() {
    let cases = [
        published::CASES,
        creation::CASES,
        server::RESTARTED,
        server::RELOADED,
        server::ROLES,
        server::STANDBYS,
        cache::SET,
        cache::HOLDING,
    ];
    let mut repaired: Vec<&str> = cases.into_iter().flatten().flat_map(|case| case.codes).copied().collect();
    repaired.extend(tables::BROKEN.iter().map(|its| its.code));
    repaired.extend(cache::LACKING.iter().map(|its| its.code));
    let excused: Vec<&str> = NO_REMEDY.iter().map(|(code, _)| *code).collect();
    for code in CODES.iter().map(|code| code.name()) {
        assert!(repaired.contains(&code) != excused.contains(&code), "{code} has no case and no reason, or has both");
    }
    for code in repaired.iter().chain(&excused) {
        assert!(CODES.iter().any(|known| known.name() == *code), "{code} is no code");
    }
}

#[test]
fn the_documentation_has_every_code() {
    let rows: Vec<String> = CODES.iter().map(|code| format!("| `{}` | {} |\n", code.name(), code.meaning())).collect();
    let text = include_str!("../../docs/check.md");
    assert!(text.contains(&rows.concat()), "docs/check.md should have this table:\n{}", rows.concat());
}

/// The findings for a database in this state.
fn found(database: &Seen) -> Vec<Finding> {
    found_with(database, Clock::default())
}

fn found_with(database: &Seen, clock: Clock) -> Vec<Finding> {
    let (application_name, libpq) = ("coherd", "host=db port=5432 dbname=app user=coherd sslmode=prefer".to_owned());
    prerequisites(&Look { database, clock, application_name, wal_budget: Some(10 << 30), libpq })
}

/// The database as it is, but for the right to send messages, which is of no interest here.
fn seen(database: &Database) -> Seen {
    let mut seen = Session::of(database).look(&[]);
    seen.server.public_senders.clear();
    seen
}

fn slot(seen: &Seen) -> Slot {
    Slot {
        plugin: Some("pgoutput".into()),
        database: Some(seen.name.clone()),
        wal_status: Some("reserved".into()),
        ..Slot::default()
    }
}

#[test]
fn a_database_that_was_set_up_has_no_findings_but_the_targets() {
    let database = Database::create();
    database.run("CREATE TABLE t (id int PRIMARY KEY)");
    let config = Config::new(&database.dsn(), &database.name, &["{table: t, keys: ['t:{id}']}"]);
    let before = config.coherd(&["check"]);
    assert_eq!(before.code, 1);
    insta::assert_snapshot!(before.stdout.split("\n\n").filter(|part| !part.contains("target") && !part.starts_with("note")).collect::<Vec<_>>().join("\n"), @r#"
    error [publication-missing] publication NAME: it is not in database NAME, so nothing is sent
        coherd setup
    warning [slot-missing] slot NAME: it is not there yet; coherd setup or the first coherd run creates it
        coherd setup
    warning [functions-missing] schema coherd: it is not there: applications have no coherd.token(), and nobody can invalidate manually
        coherd setup
    1 error, 2 warnings, 1 question without an answer
    "#);
    config.coherd(&["setup"]);
    let after = config.coherd(&["check", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&after.stdout).unwrap();
    let subjects: Vec<_> = json["findings"].as_array().unwrap().iter().map(|finding| &finding["subject"]).collect();
    assert_eq!(subjects, ["source", "target cache"]);
    assert_eq!(
        (&json["findings"][0]["code"], &json["findings"][0]["severity"]),
        (&"messages-public".into(), &"note".into())
    );
}

#[test]
fn a_database_that_cannot_be_asked_is_not_fine() {
    let config = Config::new("postgresql://nobody@127.0.0.1:1/none", "none", &["{table: t, keys: ['t:{id}']}"]);
    let ended = config.coherd(&["check"]);
    assert_eq!(ended.code, 1);
    assert!(ended.stdout.contains("could not check [source-unreachable] source: coherd checked no rule"), "{ended:?}");
}

#[test]
fn what_the_server_lacks_is_named_with_its_repair() {
    let database = Database::create();
    let mut seen = seen(&database);
    seen.name = "app".into();
    seen.slot_name = "coherd".into();
    seen.server.wal_level = "minimal".into();
    seen.server.slots.used = seen.server.slots.max;
    seen.server.senders.used = seen.server.senders.max;
    seen.server.sender_timeout = std::time::Duration::ZERO;
    seen.server.encoding = "SQL_ASCII".into();
    seen.role.name = "App".into();
    seen.role.replication = false;
    insta::assert_snapshot!(text(&found(&seen)), @r#"
    error [wal-level] source: wal_level is minimal, so the log cannot be decoded; this needs a restart of the server
        ALTER SYSTEM SET wal_level = logical;
        -- then restart the server

    error [slots-full] source: all 50 replication slots are taken (max_replication_slots); more need a restart of the server
        ALTER SYSTEM SET max_replication_slots = 55;
        -- then restart the server

    error [senders-full] source: all 50 WAL senders are at work (max_wal_senders); more need a restart of the server
        ALTER SYSTEM SET max_wal_senders = 55;
        -- then restart the server

    error [role-replication] source: role "App" may not replicate, so it cannot follow the log
        ALTER ROLE "App" REPLICATION;

    warning [sender-timeout] source: wal_sender_timeout is 0: if coherd's host or network fails, the slot stays in use until TCP times out
        ALTER SYSTEM SET wal_sender_timeout = '60s';
        SELECT pg_catalog.pg_reload_conf();

    warning [encoding] source: the database's encoding is SQL_ASCII, so bytes beyond ASCII come into keys as they are, and a reader that spells a key in UTF-8 may miss it. Only a new database has another encoding

    warning [slot-missing] slot coherd: it is not there yet; coherd setup or the first coherd run creates it
        coherd setup

    warning [functions-missing] schema coherd: it is not there: applications have no coherd.token(), and nobody can invalidate manually
        coherd setup

    4 errors, 4 warnings
    "#);
}

#[test]
fn an_old_server_and_a_standby_that_cannot_decode_are_refused() {
    let database = Database::create();
    let mut seen = seen(&database);
    seen.server.version = 130_004;
    seen.server.in_recovery = true;
    seen.slot = Some(slot(&seen));
    seen.publication = Some(publication());
    seen.functions = Some("older".into());
    insta::assert_snapshot!(text(&found(&seen)), @r#"
    error [server-version] source: it is Postgres 13; coherd needs 14 or later

    error [standby-version] source: it is a standby, and Postgres 13 decodes on the primary only; name the primary

    warning [functions-old] schema coherd: its functions are those of another version; coherd setup renews them
        coherd setup

    2 errors, 1 warning
    "#);
}

#[test]
fn a_slot_of_another_kind_is_refused_and_a_lost_one_told() {
    let database = Database::create();
    let mut seen = seen(&database);
    seen.name = "app".into();
    seen.slot_name = "coherd".into();
    seen.functions = Some(coherd::postgres::survey::schema::FUNCTIONS_COMMENT.into());
    seen.operators = true;
    let good = slot(&seen);
    let mut texts = Vec::new();
    for slot in [
        good.clone(),
        Slot { plugin: None, database: None, ..good.clone() },
        Slot { database: Some("Other".into()), ..good.clone() },
        Slot { plugin: Some("test_decoding".into()), ..good.clone() },
        Slot { two_phase: true, ..good.clone() },
        Slot { wal_status: Some("lost".into()), ..good },
    ] {
        seen.slot = Some(slot);
        seen.publication = Some(publication());
        texts.extend(found(&seen).iter().map(ToString::to_string));
    }
    insta::assert_snapshot!(texts.join("\n"), @r#"
    error [slot-physical] slot coherd: it is a physical one, made for a standby or a backup; it is not coherd's, so choose another name (source.slot)
    error [slot-database] slot coherd: it belongs to database "Other", not to app; it is not coherd's, so choose another name (source.slot)
    error [slot-plugin] slot coherd: it was made with the output plugin test_decoding, and coherd reads pgoutput; it is not coherd's, so choose another name (source.slot)
    error [slot-two-phase] slot coherd: it sends prepared transactions early (two_phase), without their rows; it is not coherd's, so choose another name (source.slot)
    warning [slot-lost] slot coherd: the log it needs is gone (wal_removed): coherd has missed changes. coherd run creates the slot again and flushes the rules' scopes, unless on_gap is halt. Do not drop the slot by hand: coherd would then take a cache without a record for a new one
        coherd run
    "#);
}

fn publication() -> coherd::types::database::Publication {
    coherd::types::database::Publication {
        owned: true,
        made_here: true,
        all_tables: true,
        excepted: Vec::new(),
        holds_schemas: false,
        operations: coherd::types::database::Operations { insert: true, update: true, delete: true, truncate: true },
        via_root: true,
        generated: true,
    }
}

/// Managed Postgres services are not available here, but their roles can be imitated. tests/check/server.rs does this
/// too.
#[test]
fn managed_services_are_told_what_they_can_do() {
    let database = Database::create();
    let mut seen = seen(&database);
    seen.slot = Some(slot(&seen));
    seen.publication = Some(publication());
    seen.functions = Some(coherd::postgres::survey::schema::FUNCTIONS_COMMENT.into());
    seen.operators = true;
    seen.server.wal_level = "minimal".into();
    seen.role.replication = false;
    seen.role.name = "coherd".into();
    let mut texts = Vec::new();
    for hosting in [Hosting::AmazonRds, Hosting::CloudSql, Hosting::Azure] {
        seen.server.hosting = hosting;
        seen.server.idle_slot_timeout = std::time::Duration::from_hours(1);
        texts.extend(found(&seen).into_iter().flat_map(|finding| finding.remedy));
    }
    insta::assert_snapshot!(texts.join("\n"), @r#"
    -- Amazon RDS: set rds.logical_replication = 1 in the instance's parameter group, then reboot the instance
    GRANT rds_replication TO coherd;
    -- Amazon RDS: set idle_replication_slot_timeout = 0 in the instance's parameter group
    -- Cloud SQL: set the instance's flag cloudsql.logical_decoding = on; the instance restarts
    ALTER USER coherd WITH REPLICATION;
    -- Cloud SQL: set the instance's flag idle_replication_slot_timeout = 0
    -- Azure: set the server parameter wal_level = logical, then restart the server
    ALTER USER coherd WITH REPLICATION;
    -- Azure: set the server parameter idle_replication_slot_timeout = 0
    "#);
}

#[test]
fn clocks_that_differ_by_more_than_the_question_took_are_told() {
    let database = Database::create();
    let seen = seen(&database);
    let of_clock = |ahead_ms, doubt_ms| {
        found_with(&seen, Clock { ahead_ms, doubt_ms })
            .into_iter()
            .find(|finding| finding.code == Code::CLOCK)
            .map(|finding| finding.message)
    };
    assert_eq!([of_clock(900, 0), of_clock(-900, 0), of_clock(5000, 4500)], [None, None, None]);
    assert!(of_clock(1500, 10).unwrap().starts_with("the database's clock is 1.5 s ahead of this machine's"));
    assert!(of_clock(-61_000, 10).unwrap().starts_with("the database's clock is 61.0 s behind this machine's"));
}

#[test]
fn only_warnings_are_fine() {
    let finding = |make: fn(Code, &'static str, &'static str) -> Finding| vec![make(Code::CLOCK, "a", "b")];
    assert!(fine(&finding(Finding::warning)) && fine(&[]));
    assert!(!fine(&finding(Finding::unknown)) && !fine(&finding(Finding::error)));
    assert_eq!(json(&[]), "{\"findings\":[],\"fine\":true}\n");
}

#[test]
fn a_configuration_is_read_without_reaching_for_anybody() {
    let config = Config::new("postgresql://nobody@127.0.0.1:1/none", "none", &["{table: t, keys: ['t:{id}']}"]);
    let fine = config.coherd(&["check", "--config-only"]);
    assert_eq!((fine.code, fine.stdout.as_str(), fine.stderr.as_str()), (0, "the configuration is fine\n", ""));
    let json = config.coherd(&["check", "--config-only", "--json"]);
    assert_eq!((json.code, json.stdout.as_str()), (0, "{\"findings\":[],\"fine\":true}\n"));
    config.write("postgresql://nobody:hunter2@127.0.0.1:port/none", &["{table: t, keys: ['t:{id}']}"]);
    let wrong = config.coherd(&["check", "--config-only"]);
    assert_eq!((wrong.code, wrong.stdout.as_str()), (78, ""));
    assert!(wrong.stderr.contains("source.dsn") && !wrong.stderr.contains("hunter2"), "{wrong:?}");
    config.write("postgresql://nobody@127.0.0.1:1/none", &["{table: t, keys: ['t:{id']}"]);
    assert_eq!(config.coherd(&["check", "--config-only"]).code, 78);
}
