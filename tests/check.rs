//! `coherd check`: everything at once, and "could not check" is never "fine".

use coherd::cli::check::prerequisites::prerequisites;
use coherd::cli::check::{fine, json, targets, text};
use coherd::database::{Database as Seen, Slot};
use coherd::finding::Finding;
use coherd::target::{Delivered, Delivery, Fault, FaultKind, Pending, Recollection, Target};

use crate::catalog::Session;
use crate::setup::Config;
use crate::support::standby::STANDBY_NAME;
use crate::support::{Database, Postgres, until};

fn slot(seen: &Seen) -> Slot {
    Slot {
        plugin: Some("pgoutput".into()),
        database: Some(seen.name.clone()),
        active_pid: None,
        wal_status: Some("reserved".into()),
        confirmed: None,
        two_phase: false,
    }
}

#[test]
fn a_database_that_was_set_up_has_no_findings_but_the_targets() {
    let database = Database::create();
    database.run("CREATE TABLE t (id int PRIMARY KEY)");
    let config = Config::new(&database.dsn(), &database.name, &["{table: t, keys: ['t:{id}']}"]);
    let before = config.coherd(&["check"]);
    assert_eq!(before.code, 1);
    insta::assert_snapshot!(before.stdout.split("\n\n").filter(|part| !part.contains("target")).collect::<Vec<_>>().join("\n"), @r#"
    error: publication NAME: it is not in database NAME, so nothing is sent
        coherd setup
    warning: slot NAME: it is not there yet; coherd setup or the first coherd run creates it
    warning: schema coherd: it is not there: applications have no coherd.token(), and nobody can invalidate by hand
        coherd setup
    1 error, 2 warnings, 1 question without an answer
    "#);
    config.coherd(&["setup"]);
    let after = config.coherd(&["check", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&after.stdout).unwrap();
    let subjects: Vec<_> = json["findings"].as_array().unwrap().iter().map(|finding| &finding["subject"]).collect();
    assert_eq!(subjects, ["target cache"]);
}

#[test]
fn a_database_that_cannot_be_asked_is_not_fine() {
    let config = Config::new("postgresql://nobody@127.0.0.1:1/none", "none", &["{table: t, keys: ['t:{id}']}"]);
    let ended = config.coherd(&["check"]);
    assert_eq!(ended.code, 1);
    assert!(ended.stdout.contains("could not check: source: no rule was looked at"), "{ended:?}");
}

#[test]
fn what_the_server_lacks_is_named_with_its_mending() {
    let database = Database::create();
    let mut seen = Session::of(&database).look(&[]);
    seen.name = "app".into();
    seen.slot_name = "coherd".into();
    seen.server.wal_level = "replica".into();
    seen.server.slots_used = seen.server.slots_max;
    seen.server.senders_used = seen.server.senders_max;
    seen.server.sender_timeout = std::time::Duration::ZERO;
    seen.server.synchronous_commit = "off".into();
    seen.server.encoding = "SQL_ASCII".into();
    seen.role.name = "App".into();
    seen.role.replication = false;
    insta::assert_snapshot!(text(&prerequisites(&seen, "coherd")), @r#"
    error: source: wal_level is replica, so the log cannot be decoded; this needs a restart of the server
        ALTER SYSTEM SET wal_level = logical;

    error: source: all 50 replication slots are taken (max_replication_slots); more need a restart of the server
        ALTER SYSTEM SET max_replication_slots = 55;

    error: source: all 50 WAL senders are at work (max_wal_senders); more need a restart of the server
        ALTER SYSTEM SET max_wal_senders = 55;

    error: source: role "App" may not replicate, so it cannot follow the log
        ALTER ROLE "App" REPLICATION; -- on Amazon RDS: GRANT rds_replication TO "App";

    warning: source: wal_sender_timeout is 0: a daemon that vanished without a word holds its slot until TCP gives up
        ALTER SYSTEM SET wal_sender_timeout = '60s';
        SELECT pg_reload_conf();

    warning: source: synchronous_commit is off: a commit reaches the log, and so the caches, up to 3 × wal_writer_delay later

    warning: source: the database's encoding is SQL_ASCII, so bytes beyond ASCII come into keys as they are

    warning: slot coherd: it is not there yet; coherd setup or the first coherd run creates it

    warning: schema coherd: it is not there: applications have no coherd.token(), and nobody can invalidate by hand
        coherd setup

    4 errors, 5 warnings
    "#);
}

#[test]
fn a_server_that_counts_coherd_as_a_standby_is_an_error_until_its_mending_is_run() {
    let database = Database::create_on(std::sync::Arc::new(Postgres::start("")));
    database.run("CREATE TABLE t (id int PRIMARY KEY)");
    let config = Config::new(&database.dsn(), &database.name, &["{table: t, keys: ['t:{id}']}"]);
    config.coherd(&["setup"]);
    let standby = database.server.standby("");
    standby.catch_up(&database.server);
    let findings = || {
        let checked = config.coherd(&["check", "--json"]);
        let json: serde_json::Value = serde_json::from_str(&checked.stdout).unwrap();
        let all = json["findings"].as_array().unwrap().clone();
        all.into_iter().filter(|finding| finding["subject"] == "source").collect::<Vec<_>>()
    };
    let _waiting = database.server.wait_for("*");
    let found = findings();
    insta::assert_snapshot!(serde_json::to_string_pretty(&found).unwrap(), @r#"
    [
      {
        "message": "synchronous_standby_names is '*', which counts coherd (application_name 'coherd') as a synchronous standby: writers would wait for coherd to confirm their commits, and coherd for these to become visible. Name only standbys there (on a managed service in its parameter group)",
        "remedy": [
          "ALTER SYSTEM SET synchronous_standby_names = 'stand_by';",
          "SELECT pg_reload_conf();"
        ],
        "severity": "error",
        "subject": "source"
      }
    ]
    "#);
    let mut dba = database.client();
    for statement in found[0]["remedy"].as_array().unwrap() {
        dba.run(statement.as_str().unwrap());
    }
    until("check finds nothing any more", || findings().is_empty().then_some(()));
    assert_eq!(dba.one("SHOW synchronous_standby_names"), STANDBY_NAME);
}

#[test]
fn an_old_server_and_a_standby_that_cannot_decode_are_refused() {
    let database = Database::create();
    let mut seen = Session::of(&database).look(&[]);
    seen.server.version = 130_004;
    seen.server.in_recovery = true;
    seen.slot = Some(slot(&seen));
    seen.functions = Some("older".into());
    insta::assert_snapshot!(text(&prerequisites(&seen, "coherd")), @r#"
    error: source: it is Postgres 13; coherd needs 14 or later

    error: source: it is a standby, and Postgres 13 decodes on the primary only; name the primary

    warning: schema coherd: its functions are those of another version; coherd setup renews them
        coherd setup

    2 errors, 1 warning
    "#);
}

#[test]
fn a_slot_of_another_kind_is_refused_and_a_lost_one_told() {
    let database = Database::create();
    let mut seen = Session::of(&database).look(&[]);
    seen.name = "app".into();
    seen.slot_name = "coherd".into();
    seen.functions = Some(coherd::cli::setup::FUNCTIONS_COMMENT.into());
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
        texts.extend(prerequisites(&seen, "coherd").iter().map(ToString::to_string));
    }
    insta::assert_snapshot!(texts.join("\n"), @r#"
    error: slot coherd: it is a physical one, made for a standby or a backup; choose another name (source.slot)
    error: slot coherd: it belongs to database "Other", not to app; choose another name (source.slot)
    error: slot coherd: it was made with the output plugin test_decoding, and coherd reads pgoutput; choose another name (source.slot), or drop it if nobody needs it
        SELECT pg_drop_replication_slot('coherd');
    error: slot coherd: it sends prepared transactions early (two_phase), without their rows; choose another name (source.slot), or drop it if nobody needs it
        SELECT pg_drop_replication_slot('coherd');
    warning: slot coherd: the log it needs is gone: changes were missed. coherd run makes it anew and flushes the rules' scopes, unless on_gap says halt
    "#);
}

struct Faulty(Option<FaultKind>);

impl Target for Faulty {
    fn deliver<'a>(&'a self, _: &'a Delivery) -> Pending<'a, Result<Delivered, Fault>> {
        unreachable!("check sends nothing")
    }

    fn recall(&self) -> Pending<'_, Result<Recollection, Fault>> {
        let fault = self.0.map(|kind| Fault { kind, message: "it said no".to_owned() });
        Box::pin(async { fault.map_or(Ok(Recollection { record: None, empty: true }), Err) })
    }
}

#[tokio::test]
async fn a_target_that_does_not_answer_is_a_question_and_one_that_refuses_an_error() {
    let asked = [Faulty(None), Faulty(Some(FaultKind::Connection)), Faulty(Some(FaultKind::Denied))];
    let named = ["good", "gone", "shut"].into_iter().zip(asked.iter().map(|target| target as &dyn Target));
    let findings = targets(named).await;
    insta::assert_snapshot!(text(&findings), @r#"
    error: target shut: it said no

    could not check: target gone: it said no

    1 error, 0 warnings, 1 question without an answer
    "#);
    assert!(!fine(&findings) && fine(&[]) && fine(&[Finding::warning("a", "b")]));
    assert!(!fine(&[Finding::unknown("a", "b")]));
    assert_eq!(json(&[]), "{\"findings\":[],\"fine\":true}\n");
}
