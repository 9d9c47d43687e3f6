//! Messages and exit codes when coherd cannot work.

use std::sync::Arc;

use insta::assert_snapshot;

use crate::support::daemon::text;
use crate::support::{Daemon, Database, Postgres, Redis, until};

const RULE: &str = "rules:\n  - table: users\n    keys: [\"user:{id}\"]\n";

/// Runs `coherd run` until it ends. Returns the exit code and the output; ports, names and paths are replaced.
fn refusal(daemon: &Daemon, database: &Database) -> String {
    let output = daemon.command(&["run"]);
    let said = text(&output).lines().filter(|line| !line.contains("\"INFO\"")).collect::<Vec<_>>().join("\n");
    let said = said.replace(&daemon.config().display().to_string(), "coherd.yaml").replace(&database.name, "app");
    let said = said.replace(&format!("127.0.0.1:{}", database.server.port()), "127.0.0.1:5432");
    format!("exit {}\n{said}", output.status.code().unwrap_or(-1))
}

fn configured(schema: &str, rest: &str) -> (Database, Redis, Daemon) {
    let (database, redis) = (Database::create(), Redis::start());
    database.run(schema);
    let daemon = Daemon::configure(&database, &redis.url(), rest);
    (database, redis, daemon)
}

#[test]
fn a_configuration_with_several_mistakes_names_them_all() {
    let (database, _redis, daemon) = configured("", "rulez: []\non_gap: wait\n");
    assert_snapshot!(refusal(&daemon, &database), @r#"
    exit 78
    coherd.yaml:1:1: rules: it is missing; write rules: [{table: public.users, keys: ["user:{id}"]}]
    coherd.yaml:10:1: rulez: unknown field `rulez`, did you mean `rules`? known: source, targets, rules, tests, on_gap, on_first_start, repeat_after, manual, limits, admin, log
    coherd.yaml:11:9: on_gap: unknown value `wait`, did you mean `halt`? known: flush, halt
    "#);
}

#[test]
fn a_dsn_with_a_misspelt_parameter_names_the_nearest() {
    let (database, _redis, daemon) = configured("", RULE);
    daemon.edit("sslmode=disable", "sslmod=disable");
    assert_snapshot!(refusal(&daemon, &database), @r#"
    exit 78
    coherd: source.dsn: connection string: sslmod is no parameter; sslmode is
    "#);
}

#[test]
fn a_rule_for_a_table_that_is_not_there_names_the_nearest() {
    let (database, _redis, daemon) = configured("CREATE TABLE user_s (id int PRIMARY KEY)", RULE);
    assert_snapshot!(refusal(&daemon, &database), @r#"
    exit 1
    coherd: not started, because invalidations would be lost:
    error [publication-missing] publication app: it is not in database app, so nothing is sent
        coherd setup
    error [table-missing] rules[0] public.users: there is no such table in database app; did you mean public.user_s?
    "#);
}

#[test]
fn a_rule_with_a_column_that_is_not_there_names_the_nearest() {
    let (database, _redis, daemon) =
        configured("CREATE TABLE users (\"Id\" int PRIMARY KEY); CREATE PUBLICATION pub FOR TABLE users", RULE);
    assert_snapshot!(refusal(&daemon, &database), @r#"
    exit 1
    coherd: not started, because invalidations would be lost:
    error [publication-missing] publication app: it is not in database app, so nothing is sent
        coherd setup
    error [column-missing] rules[0] public.users: there is no column id; there is "Id", which is written in double quotes: {"Id"}
    "#);
}

#[test]
fn before_setup_it_says_to_run_setup() {
    let (database, _redis, daemon) = configured("CREATE TABLE users (id int PRIMARY KEY)", RULE);
    assert_snapshot!(refusal(&daemon, &database), @r#"
    exit 1
    coherd: not started, because invalidations would be lost:
    error [publication-missing] publication app: it is not in database app, so nothing is sent
        coherd setup
    "#);
}

#[test]
fn a_role_that_may_not_replicate_is_told_how_to_get_there() {
    let (database, _redis, daemon) = configured("CREATE TABLE users (id int PRIMARY KEY)", RULE);
    daemon.setup(&database);
    let role = format!("{}_weak", database.name);
    database.run(&format!("CREATE ROLE {role} LOGIN"));
    daemon.edit("//coherd:", &format!("//{role}:"));
    let said = refusal(&daemon, &database);
    database.run(&format!("DROP ROLE {role}"));
    if database.server.version() >= 160_000 {
        assert_snapshot!(said, @r#"
        exit 1
        coherd: Postgres at 127.0.0.1:5432: could not log in as app_weak to database app: permission denied to start WAL sender (Only roles with the REPLICATION attribute may start a WAL sender process.) [SQLSTATE 42501]. Run as a superuser: ALTER ROLE app_weak REPLICATION;
        "#);
    } else {
        assert_snapshot!(said, @r#"
        exit 1
        coherd: Postgres at 127.0.0.1:5432: could not log in as app_weak to database app: must be superuser or replication role to start walsender [SQLSTATE 42501]. Run as a superuser: ALTER ROLE app_weak REPLICATION;
        "#);
    }
}

#[test]
fn a_server_whose_writers_would_wait_for_coherd_is_refused_with_the_setting_that_repairs_it() {
    let (database, redis) = (Database::create_on(Arc::new(Postgres::start(""))), Redis::start());
    database.run("CREATE TABLE users (id int PRIMARY KEY)");
    let daemon = Daemon::configure(&database, &redis.url(), RULE);
    daemon.setup(&database);
    let refused = |names: &str| {
        let _waiting = database.server.wait_for(names);
        refusal(&daemon, &database)
    };
    let with_slot = refused("*");
    database.run(&format!("SELECT pg_drop_replication_slot('{}')", database.name));
    let names = "ANY 2 (a, \"Coherd\", b)";
    let said = [with_slot, refused(names)];
    let _waiting = database.server.wait_for(names);
    let setup = daemon.command(&["setup"]);
    assert!(text(&setup).contains("ALTER SYSTEM SET synchronous_standby_names = 'ANY 2 (a, b)';"), "{}", text(&setup));
    assert_eq!(database.client().one("SELECT count(*) FROM pg_replication_slots"), "0", "one that nobody could follow");
    assert_snapshot!(said.join("\n"), @r#"
    exit 1
    coherd: synchronous_standby_names is '*', which counts coherd (application_name 'coherd') as a synchronous standby. Writers would wait for coherd to confirm their commits, and coherd for these commits to become visible: a deadlock. Name only standbys there (on a managed service, in its parameter group): ALTER SYSTEM SET synchronous_standby_names = '<the standbys>'; SELECT pg_catalog.pg_reload_conf(); with their names from SELECT application_name FROM pg_catalog.pg_stat_replication;
    exit 1
    coherd: synchronous_standby_names is 'ANY 2 (a, "Coherd", b)', which counts coherd (application_name 'coherd') as a synchronous standby. Writers would wait for coherd to confirm their commits, and coherd for these commits to become visible: a deadlock. Name only standbys there (on a managed service, in its parameter group), or give coherd another application_name in the connection string: ALTER SYSTEM SET synchronous_standby_names = 'ANY 2 (a, b)'; SELECT pg_catalog.pg_reload_conf();
    "#);
}

#[test]
fn a_database_that_is_not_there_is_named() {
    let (database, _redis, daemon) = configured("", RULE);
    daemon.edit(&format!("/{}?", database.name), "/nowhere?");
    assert_snapshot!(refusal(&daemon, &database), @r#"
    exit 1
    coherd: Postgres at 127.0.0.1:5432: could not log in as coherd to database nowhere: database "nowhere" does not exist [SQLSTATE 3D000]. Correct dbname in the connection string, or create the database.
    "#);
}

#[test]
fn a_database_that_is_away_is_waited_for_and_readiness_says_so() {
    let (database, _redis, mut daemon) = configured("CREATE TABLE users (id int PRIMARY KEY)", RULE);
    daemon.setup(&database);
    let port = database.server.port();
    daemon.edit(&format!("127.0.0.1:{port}"), "127.0.0.1:1");
    daemon.launch_unready();
    let said = until("readiness says what is wrong", || {
        Some(daemon.http("/readyz")).filter(|(_, body)| body.contains("refused") && !body.contains("starting"))
    });
    assert_snapshot!(format!("{}\n{}", said.0, said.1), @r#"
    503
    not following the log, retrying: Postgres at 127.0.0.1:1: cannot be reached: Connection refused (os error 111). Is Postgres running there, and listening?
    target cache has not answered yet
    "#);
    assert_eq!(daemon.http("/livez").0, 200);
}

#[test]
fn a_cache_that_is_away_is_waited_for_and_readiness_says_so() {
    let (database, redis, mut daemon) = configured("CREATE TABLE users (id int PRIMARY KEY)", RULE);
    daemon.setup(&database);
    let url = redis.url();
    drop(redis);
    daemon.edit(&url, "redis://127.0.0.1:1/0");
    daemon.launch_unready();
    let said = until("readiness says what is wrong", || {
        Some(daemon.http("/readyz")).filter(|(_, body)| body.contains("refused") && !body.contains("starting"))
    });
    assert_snapshot!(format!("{}\n{}", said.0, said.1), @r#"
    503
    target cache is down, retrying (Redis at 127.0.0.1:1: connecting: Connection refused (os error 111); is the server up and reachable?)
    "#);
}

#[test]
fn a_wrong_cache_password_is_named_and_not_shown() {
    let database = Database::create();
    let redis = Redis::start_with(&["--requirepass", "hunter2"]);
    database.run("CREATE TABLE users (id int PRIMARY KEY)");
    let url = redis.url().replace("redis://", "redis://:hunter3@");
    let mut daemon = Daemon::configure(&database, &url, RULE);
    daemon.setup(&database);
    daemon.launch_unready();
    let said = until("readiness says what is wrong", || {
        Some(daemon.http("/readyz")).filter(|(_, body)| body.contains("WRONGPASS") && !body.contains("starting"))
    });
    let said = said.1.replace(&format!("127.0.0.1:{}", redis.port()), "127.0.0.1:6379");
    assert_snapshot!(said, @r#"target cache is down, retrying (Redis at 127.0.0.1:6379: AUTH was answered with WRONGPASS invalid username-password pair or user is disabled.; correct user and password in the url)"#);
    assert!(!daemon.log().contains("hunter"), "{}", daemon.log());
}
