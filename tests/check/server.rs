//! Settings, roles, the slot and standbys. Each case has a server of its own, and is fixed exactly as printed.

use std::sync::Arc;

use super::bench::{Bench, Case, run_all};
use crate::support::postgres::postgres_client;
use crate::support::{Database, Redis};

const RULE: &[&str] = &["{table: t, keys: ['t:{id}']}"];
const T: &str = "CREATE TABLE t (id int PRIMARY KEY)";

/// A bench with the table, after setup.
fn set_up(settings: &str) -> Bench {
    let bench = Bench::alone(settings, RULE);
    bench.sql(T);
    let (fine, text) = bench.shell("coherd setup");
    assert!(fine, "{text}");
    bench
}

fn alter(bench: &Bench, setting: &str) {
    bench.sql(&format!("ALTER SYSTEM SET {setting}"));
    bench.database.server.reload();
}

pub const RESTARTED: &[Case] = &[
    Case {
        codes: &["wal-level"],
        run: || {
            let bench = Bench::alone("wal_level = replica", RULE);
            // From Postgres 19 on, a slot turns logical decoding on.
            if bench.database.server.version() < 190_000 {
                bench.repairs("wal-level");
            } else {
                bench.misses("wal-level");
            }
        },
    },
    Case {
        codes: &["slots-full"],
        run: || {
            let bench = Bench::alone("max_replication_slots = 1", RULE);
            bench.sql("SELECT pg_create_physical_replication_slot('another')");
            bench.repairs("slots-full");
        },
    },
    Case {
        codes: &["senders-full"],
        run: || {
            let bench = Bench::alone("max_wal_senders = 0", RULE);
            bench.repairs("senders-full");
        },
    },
];

pub const RELOADED: &[Case] = &[
    Case {
        codes: &["sender-timeout"],
        run: || {
            let bench = set_up("");
            alter(&bench, "wal_sender_timeout = 0");
            bench.repairs("sender-timeout");
        },
    },
    Case {
        codes: &["synchronous-commit"],
        run: || {
            let bench = set_up("");
            alter(&bench, "synchronous_commit = off");
            bench.sql("CREATE ROLE batch; ALTER ROLE batch SET synchronous_commit = off");
            let found = bench.finds("synchronous-commit");
            assert!(found.message.contains("the whole server, role batch"), "{found:?}");
            bench.repairs("synchronous-commit");
        },
    },
    Case {
        codes: &["wal-unbounded"],
        run: || {
            let mut bench = set_up("");
            ", wal_budget: none".clone_into(&mut bench.source);
            bench.repairs("wal-unbounded");
        },
    },
    Case {
        codes: &["wal-keep-size"],
        run: || {
            let bench = set_up("");
            alter(&bench, "max_slot_wal_keep_size = '1GB'");
            bench.repairs("wal-keep-size");
        },
    },
    Case {
        codes: &["idle-slot-timeout"],
        run: || {
            let bench = set_up("");
            if skips(&bench, 180_000) {
                return;
            }
            alter(&bench, "idle_replication_slot_timeout = '1d'");
            bench.repairs("idle-slot-timeout");
        },
    },
    Case {
        codes: &["slot-at-risk", "slot-lost"],
        run: || {
            // Checkpoints happen only on request.
            let mut bench = set_up("checkpoint_timeout = 1h\nmax_wal_size = 10GB");
            ", wal_budget: none".clone_into(&mut bench.source);
            alter(&bench, "max_slot_wal_keep_size = '1MB'");
            fill_segments(&bench);
            bench.repairs("slot-at-risk");
            alter(&bench, "max_slot_wal_keep_size = '1MB'");
            fill_segments(&bench);
            bench.sql("CHECKPOINT");
            bench.repairs("slot-lost");
        },
    },
];

fn fill_segments(bench: &Bench) {
    let mut client = bench.database.client();
    for _ in 0..4 {
        client.run("SELECT pg_logical_emit_message(false, 'filling', 'x')");
        client.run("SELECT pg_switch_wal()");
    }
}

fn skips(bench: &Bench, since: u32) -> bool {
    let skips = bench.database.server.version() < since;
    if skips {
        println!("skipped, it takes Postgres {}", since / 10_000);
    }
    skips
}

pub const ROLES: &[Case] = &[
    Case {
        codes: &["role-replication"],
        run: || {
            let mut bench = set_up("");
            bench.sql("CREATE ROLE \"Plain\" LOGIN");
            bench.dsn = bench.database.dsn_as("Plain");
            bench.repairs("role-replication");
        },
    },
    Case {
        codes: &["role-replication"],
        run: || {
            let mut bench = set_up("");
            for service in ["cloudsqlsuperuser", "azure_pg_admin"] {
                bench.sql(&format!("CREATE ROLE {service}; CREATE ROLE of_{service} LOGIN"));
                bench.dsn = bench.database.dsn_as(&format!("of_{service}"));
                bench.repairs("role-replication");
                bench.sql(&format!("DROP ROLE {service}"));
            }
            // As on Amazon RDS, where members of the role may replicate. Here only the finding disappears.
            bench.sql("CREATE ROLE rds_superuser; CREATE ROLE rds_replication; CREATE ROLE of_rds LOGIN");
            bench.dsn = bench.database.dsn_as("of_rds");
            bench.repairs("role-replication");
        },
    },
    Case {
        codes: &["functions-privilege"],
        run: || {
            let mut bench = set_up("");
            bench.sql("CREATE ROLE follower LOGIN REPLICATION; REVOKE USAGE ON SCHEMA coherd FROM PUBLIC");
            bench.dsn = bench.database.dsn_as("follower");
            bench.repairs("functions-privilege");
            bench.sql("REVOKE EXECUTE ON FUNCTION coherd.invalidate(text[]) FROM follower");
            bench.repairs("functions-privilege");
        },
    },
    Case {
        codes: &["operator-missing"],
        run: || {
            let bench = set_up("");
            bench.sql("DROP OWNED BY coherd_operator; DROP ROLE coherd_operator");
            bench.repairs("operator-missing");
        },
    },
    Case {
        codes: &["messages-public"],
        run: || {
            let bench = set_up("");
            bench.sql("CREATE ROLE app LOGIN");
            bench.repairs("messages-public");
            let send = "SELECT pg_logical_emit_message(true, 'coherd', '')";
            assert!(postgres_client(&bench.database.dsn_as("app")).unwrap().try_run(send).is_err());
        },
    },
];

pub const STANDBYS: &[Case] = &[
    Case {
        codes: &["synchronous-standby"],
        run: || {
            let bench = set_up("");
            let standby = bench.database.server.standby("");
            standby.catch_up(&bench.database.server);
            let _waiting = bench.database.server.wait_for("*");
            bench.repairs("synchronous-standby");
        },
    },
    Case {
        codes: &["slot-failover", "standby-slots"],
        run: || {
            let bench = set_up("");
            if skips(&bench, 170_000) {
                return;
            }
            let standby = bench.database.server.standby("");
            standby.catch_up(&bench.database.server);
            bench.repairs("standby-slots");
            alter(&bench, "synchronized_standby_slots = ''");
            bench.sql("SELECT pg_drop_replication_slot('NAME')");
            bench.sql("SELECT pg_create_logical_replication_slot('NAME', 'pgoutput')");
            bench.repairs("slot-failover");
        },
    },
    Case {
        codes: &["replica-paused", "replica-behind"],
        run: || {
            let mut bench = set_up("");
            let standby = bench.database.server.standby("recovery_min_apply_delay = 1h");
            let on_standby = Bench::on(
                Database { server: Arc::new(standby), name: bench.database.name.clone() },
                Redis::start(),
                RULE,
            );
            bench.source = format!(", replicas: ['{}']", on_standby.database.dsn());
            // A commit, because the delay applies to commits.
            bench.sql("CREATE TABLE later ()");
            let found = bench.finds("replica-behind");
            on_standby.run(&found.remedy);
            bench.misses("replica-behind");
            on_standby.sql("SELECT pg_wal_replay_pause()");
            let found = bench.finds("replica-paused");
            on_standby.run(&found.remedy);
            bench.misses("replica-paused");
        },
    },
];

#[test]
fn what_needs_a_restart_is_repaired_by_it() {
    run_all(RESTARTED);
}

#[test]
fn settings_that_threaten_the_slot_are_repaired_as_printed() {
    run_all(RELOADED);
}

#[test]
fn rights_are_granted_as_printed() {
    run_all(ROLES);
}

#[test]
fn standbys_and_replicas_are_repaired_as_printed() {
    run_all(STANDBYS);
}
