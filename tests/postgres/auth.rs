//! Authentication, and the messages for logins that fail.

use std::sync::Arc;

use coherd::postgres::ErrorKind;
use coherd::postgres::client::sql;

use super::{dsn, look, own_server, runtime, settled_text};
use crate::support::{Postgres, postgres::postgres_client};

const HBA: &str = "
local all postgres                trust
host  all postgres   127.0.0.1/32 trust
host  all scram,weak 127.0.0.1/32 scram-sha-256
host  all md5        127.0.0.1/32 md5
host  all clear      127.0.0.1/32 password
host  all gss        127.0.0.1/32 trust
";

fn server() -> Arc<Postgres> {
    let server = own_server("");
    let mut client = postgres_client(&server.dsn("postgres")).unwrap();
    client.run("CREATE ROLE scram LOGIN REPLICATION PASSWORD 'it''s secret'");
    client.run("CREATE ROLE clear LOGIN REPLICATION PASSWORD 'it''s secret'");
    client.run("CREATE ROLE weak LOGIN PASSWORD 'it''s secret'");
    client.run("CREATE ROLE stranger LOGIN REPLICATION PASSWORD 'it''s secret'");
    client.run("SET password_encryption = md5");
    client.run("CREATE ROLE md5 LOGIN REPLICATION PASSWORD 'it''s secret'");
    server.write_file("pg_hba.conf", HBA);
    server.reload();
    server
}

fn login(server: &Postgres, user: &str, more: &str) -> String {
    format!("host=127.0.0.1 port={} user={user} dbname=postgres sslmode=disable {more}", server.port())
}

const PASSWORD: &str = r"password='it\'s secret'";

#[test]
fn every_password_method_lets_the_right_password_in_and_no_other() {
    let server = server();
    for user in ["scram", "md5", "clear"] {
        look(&login(&server, user, PASSWORD)).unwrap();
        runtime().block_on(sql::connect(&dsn(&login(&server, user, PASSWORD)))).unwrap();
        let error = look(&login(&server, user, "password=wrong")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.to_string().contains("28P01") && !error.to_string().contains("wrong"), "{error}");
    }
}

#[test]
fn what_a_login_lacks_is_named_with_its_remedy_in_both_kinds_of_session() {
    let server = server();
    let port = server.port().to_string();
    let texts = |user: &str, more: &str| {
        let text = login(&server, user, more);
        let replication = settled_text(&look(&text).unwrap_err(), &[(&port, "PORT")]);
        let plain = match runtime().block_on(sql::connect(&dsn(&text))) {
            Ok(_) => "fine".to_owned(),
            Err(error) => settled_text(&error, &[(&port, "PORT")]),
        };
        if plain == replication { replication } else { format!("{replication}\nSQL: {plain}") }
    };
    insta::assert_snapshot!(texts("scram", "password=wrong"), @r#"Refused: Postgres at 127.0.0.1:PORT: could not log in as scram to database postgres: password authentication failed for user "scram" [SQLSTATE 28P01]. Check the password (dsn, PGPASSWORD or the password file), or set a new one: ALTER ROLE … PASSWORD '…';"#);
    insta::assert_snapshot!(texts("scram", ""), @"Refused: Postgres at 127.0.0.1:PORT: the server asks scram for a password and none is given: set it in dsn, in PGPASSWORD or in the password file");
    insta::assert_snapshot!(texts("weak", PASSWORD), @"Refused: Postgres at 127.0.0.1:PORT: could not log in as weak to database postgres: must be superuser or replication role to start walsender [SQLSTATE 42501]. Run as a superuser: ALTER ROLE weak REPLICATION;
SQL: fine");
    insta::assert_snapshot!(texts("stranger", PASSWORD), @r#"Refused: Postgres at 127.0.0.1:PORT: could not log in as stranger to database postgres: no pg_hba.conf entry for host "127.0.0.1", user "stranger", database "postgres", no encryption [SQLSTATE 28000]. Add a line to the server's pg_hba.conf and reload it (SELECT pg_catalog.pg_reload_conf();): host postgres stranger 127.0.0.1/32 scram-sha-256"#);
    insta::assert_snapshot!(texts("postgres", "dbname=nothing_here"), @r#"Refused: Postgres at 127.0.0.1:PORT: could not log in as postgres to database nothing_here: database "nothing_here" does not exist [SQLSTATE 3D000]. Correct dbname in the connection string, or create the database."#);
    insta::assert_snapshot!(texts("scram", &format!("{PASSWORD} channel_binding=require")), @"Refused: Postgres at 127.0.0.1:PORT: channel_binding=require cannot be had: the server does not offer it for this connection (it needs TLS and scram-sha-256)");
}

#[test]
fn a_missing_connect_privilege_is_told_from_a_missing_replication_attribute() {
    let server = server();
    postgres_client(&server.dsn("postgres")).unwrap().run("CREATE DATABASE closed; ");
    postgres_client(&server.dsn("postgres")).unwrap().run("REVOKE CONNECT ON DATABASE closed FROM public");
    let error = look(&login(&server, "scram", &format!("{PASSWORD} dbname=closed"))).unwrap_err();
    insta::assert_snapshot!(settled_text(&error, &[(&server.port().to_string(), "PORT")]), @r#"Refused: Postgres at 127.0.0.1:PORT: could not log in as scram to database closed: permission denied for database "closed" (User does not have CONNECT privilege.) [SQLSTATE 42501]. Run: GRANT CONNECT ON DATABASE closed TO scram;"#);
}

#[test]
fn a_dead_host_is_passed_over_and_when_all_are_dead_each_is_named() {
    let server = server();
    let live = server.port();
    let dead = crate::support::process::free_port();
    look(&format!("postgresql://postgres@127.0.0.1:{dead},127.0.0.1:{live}/postgres?sslmode=disable")).unwrap();
    let text = format!("postgresql://postgres@127.0.0.1:{dead},nowhere.invalid:{dead}/postgres");
    let error = settled_text(&look(&text).unwrap_err(), &[(&dead.to_string(), "PORT")]);
    let (until_the_resolver, _) = error.split_once("its name cannot be resolved").unwrap();
    insta::assert_snapshot!(until_the_resolver, @"Lost: none of the 2 servers is usable; 127.0.0.1:PORT: cannot be reached: Connection refused (os error 111). Is Postgres running there, and listening?; nowhere.invalid:PORT:");
}

#[test]
fn target_session_attrs_passes_over_a_host_that_is_not_asked_for() {
    let server = own_server("default_transaction_read_only = on");
    let writable = Postgres::shared();
    let (read_only, writable) = (server.port(), writable.port());
    let text = |attrs: &str| {
        format!(
            "postgresql://postgres@127.0.0.1:{read_only},127.0.0.1:{writable}/postgres?sslmode=disable&target_session_attrs={attrs}"
        )
    };
    let port = |attrs: &str| {
        let client = runtime().block_on(async {
            let client = sql::connect(&dsn(&text(attrs))).await.unwrap();
            client.query_one("SELECT current_setting('port')", &[]).await.unwrap().get::<_, String>(0)
        });
        client.parse::<u16>().unwrap()
    };
    assert_eq!(port("any"), read_only);
    assert_eq!(port("read-only"), read_only);
    assert_eq!(port("read-write"), writable);
    assert_eq!(port("primary"), read_only);
    assert_eq!(port("prefer-standby"), read_only);
    look(&text("read-write")).unwrap();
    let error = settled_text(
        &look(&text("standby")).unwrap_err(),
        &[(&read_only.to_string(), "ONE"), (&writable.to_string(), "TWO")],
    );
    insta::assert_snapshot!(error, @"Lost: none of the 2 servers is usable; 127.0.0.1:ONE: it is a primary whose sessions are read-only, and target_session_attrs=standby is wanted; 127.0.0.1:TWO: it is a primary, and target_session_attrs=standby is wanted");
}

#[test]
fn a_password_file_lets_in_and_text_output_does_not_depend_on_the_role() {
    let server = server();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pass");
    std::fs::write(&path, "127.0.0.1:*:postgres:scram:it's secret\n").unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    postgres_client(&server.dsn("postgres")).unwrap().run("ALTER ROLE scram SET timezone = 'Asia/Tokyo'");
    let text = login(&server, "scram", &format!("passfile={}", path.display()));
    look(&text).unwrap();
    let zone = runtime().block_on(async {
        let client = sql::connect(&dsn(&text)).await.unwrap();
        client.query_one("SELECT current_setting('timezone')", &[]).await.unwrap().get::<_, String>(0)
    });
    assert_eq!(zone, "UTC");
}
