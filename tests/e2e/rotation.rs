//! Secrets change while the daemon runs. It reads their files again at each connect, without SIGHUP.

use tempfile::TempDir;

use super::Shop;
use crate::support::planted;
use crate::support::process::Signal;
use crate::support::until;

const SCHEMA: &str = "CREATE TABLE users (id int PRIMARY KEY, n int NOT NULL DEFAULT 0); INSERT INTO users SELECT generate_series(1, 9);";
const RULE: &str = "  - table: users\n    keys: [\"user:{id}\"]\n";

/// A server of its own that asks the daemon's role for a password.
fn with_password(password: &str) -> (Shop, TempDir) {
    let mut shop = Shop::alone("", SCHEMA, RULE);
    shop.settle();
    shop.daemon.stop(Signal::Term);
    shop.sql.run(&format!("ALTER ROLE coherd PASSWORD '{password}'"));
    let hba = "local all postgres trust\nhost all postgres 127.0.0.1/32 trust\n\
               host all coherd 127.0.0.1/32 scram-sha-256\nhost replication coherd 127.0.0.1/32 scram-sha-256\n";
    shop.database.server.write_file("pg_hba.conf", hba);
    shop.database.server.reload();
    (shop, tempfile::tempdir().unwrap())
}

impl Shop {
    /// Changes the password and ends the daemon's connections. The daemon reconnects once `rewrite` has changed the
    /// file.
    fn rotate(&mut self, password: &str, rewrite: impl FnOnce()) {
        let before = self.walsender();
        self.sql.run(&format!("ALTER ROLE coherd PASSWORD '{password}'"));
        self.sql.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'coherd'");
        until("the daemon is not let in", || self.daemon.http("/readyz").1.contains("password").then_some(()));
        rewrite();
        self.cache(&["user:1", "other"]);
        self.sql.run("UPDATE users SET n = n + 1 WHERE id = 1");
        until("the daemon follows the log again", || (self.walsender() != before).then_some(()));
        until("the key is gone", || (self.cached() == ["other"]).then_some(()));
        until("the daemon is ready", || (self.daemon.http("/readyz").0 == 200).then_some(()));
        assert!(!self.daemon.log().contains("SIGHUP"), "{}", self.daemon.log());
    }
}

#[test]
fn a_password_of_postgres_in_dsn_file() {
    let (mut shop, folder) = with_password("first");
    let file = folder.path().join("dsn");
    let dsn = |password: &str| shop.database.dsn_as(&format!("coherd:{password}"));
    let (first, second) = (dsn("first"), dsn("second"));
    std::fs::write(&file, format!("{first}\n")).unwrap();
    let given = format!("  dsn: {}\n", shop.database.dsn_as(&planted::role()));
    shop.daemon.edit(&given, &format!("  dsn_file: {}\n", file.display()));
    shop.daemon.launch();
    shop.rotate("second", || std::fs::write(&file, second).unwrap());
}

#[test]
fn a_password_of_postgres_in_a_passfile() {
    let (mut shop, folder) = with_password("first");
    let file = folder.path().join("pgpass");
    let write = |password: &str| {
        std::fs::write(&file, format!("*:*:*:coherd:{password}\n")).unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    };
    write("first");
    let given = shop.database.dsn_as(&planted::role());
    shop.daemon.edit(&given, &format!("{}&passfile={}", shop.database.dsn_as("coherd"), file.display()));
    shop.daemon.launch();
    shop.rotate("second", || write("second"));
}

#[test]
fn a_password_of_redis_in_url_file() {
    let mut shop = Shop::open(SCHEMA, RULE);
    shop.settle();
    shop.daemon.stop(Signal::Term);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("url");
    let redis = |command: &str| {
        let mut words = command.split(' ');
        let mut query = redis::cmd(words.next().unwrap());
        words.for_each(|word| {
            query.arg(word);
        });
        query.query::<redis::Value>(&mut shop.redis.client()).unwrap()
    };
    let url = |password: &str| format!("redis://rotated:{password}@127.0.0.1:{}/0", shop.redis.port());
    redis("ACL SETUSER rotated on >first ~* &* +@all");
    std::fs::write(&file, url("first")).unwrap();
    shop.daemon.edit(&format!("    url: {}\n", shop.redis.url()), &format!("    url_file: {}\n", file.display()));
    shop.daemon.launch();
    redis("ACL SETUSER rotated resetpass >second");
    redis("CLIENT KILL USER rotated");
    until("the daemon is not let in", || shop.daemon.http("/readyz").1.contains("WRONGPASS").then_some(()));
    std::fs::write(&file, url("second")).unwrap();
    shop.cache(&["user:1", "other"]);
    shop.sql.run("UPDATE users SET n = n + 1 WHERE id = 1");
    until("the key is gone", || (shop.cached() == ["other"]).then_some(()));
    until("the daemon is ready", || (shop.daemon.http("/readyz").0 == 200).then_some(()));
    assert!(!shop.daemon.log().contains("SIGHUP"), "{}", shop.daemon.log());
}
