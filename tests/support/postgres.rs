//! A temporary Postgres server.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use tempfile::TempDir;

use super::process::{Server, Signal, free_port};
use super::wait::until;

/// A Postgres server on a free port and a unix socket, with `wal_level = logical`. The superuser is `postgres`. Without
/// a test's own `pg_hba.conf`, it needs no password over the socket and TCP.
pub struct Postgres {
    server: Mutex<Option<Server>>,
    dir: TempDir,
    port: u16,
}

/// A new database on a server. Dropping it drops the database with everything in it.
pub struct Database {
    pub server: Arc<Postgres>,
    pub name: String,
}

/// Tests that do not harm the server share it. The last one stops it.
static SHARED: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());

/// `initdb` takes over a second, so it runs once per installation, and its result is copied.
static TEMPLATE: OnceLock<PathBuf> = OnceLock::new();

/// Settings for tests. Nothing is fsynced, because no test cuts the power.
const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
wal_level = logical
max_wal_senders = 50
max_replication_slots = 50
max_connections = 200
fsync = off
shared_buffers = 64MB
log_line_prefix = '%m [%p] %q%a '
log_replication_commands = on
";

impl Postgres {
    /// The shared server.
    pub fn shared() -> Arc<Postgres> {
        let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Postgres::start(""));
            *shared = Arc::downgrade(&server);
            server
        })
    }

    /// A server that is not shared, with `settings` appended to postgresql.conf.
    pub fn start(settings: &str) -> Postgres {
        Postgres::start_from(TEMPLATE.get_or_init(initdb), settings)
    }

    /// A server of another cluster. All others share one system identifier.
    pub fn start_another(settings: &str) -> Postgres {
        let made = initdb_in_temp_dir();
        Postgres::start_from(&made.path().join("data"), settings)
    }

    fn start_from(template: &Path, settings: &str) -> Postgres {
        Postgres::start_in(
            &format!(
                "{SETTINGS}
{settings}"
            ),
            |data| {
                run(Command::new("cp").arg("-a").arg(template).arg(data));
            },
        )
    }

    /// A server in the data directory that `fill` creates.
    pub(super) fn start_in(settings: &str, fill: impl FnOnce(&Path)) -> Postgres {
        let dir = tempfile::Builder::new().prefix("pg").tempdir().expect("temp dir");
        let postgres = Postgres { server: Mutex::new(None), dir, port: free_port() };
        fill(&postgres.data_dir());
        give_to_server_user(postgres.dir.path());
        let (port, socket) = (postgres.port, postgres.socket_dir());
        postgres.append_settings(&format!("port = {port}\nunix_socket_directories = '{socket}'\n{settings}"));
        postgres.launch();
        postgres
    }

    /// Appends to postgresql.conf. This takes effect at the next start or reload.
    pub fn append_settings(&self, settings: &str) {
        use std::io::Write;
        let path = self.data_dir().join("postgresql.conf");
        let mut file = std::fs::File::options().append(true).open(path).expect("postgresql.conf");
        writeln!(file, "{settings}").expect("postgresql.conf");
    }

    /// Writes a file of the data directory that only the server may read: `pg_hba.conf`, a certificate, a key.
    pub fn write_file(&self, name: &str, text: &str) {
        let path = self.data_dir().join(name);
        std::fs::write(&path, text).expect("data directory");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("data directory");
        give_to_server_user(&path);
    }

    /// Makes the server reload postgresql.conf, pg_hba.conf and its certificates, and waits until it has.
    pub fn reload(&self) {
        let mut client = postgres_client(&self.dsn("postgres")).expect("connects");
        let before = client.one("SELECT pg_conf_load_time()");
        client.run("SELECT pg_reload_conf()");
        until("the server has reloaded", || {
            let mut fresh = postgres_client(&self.dsn("postgres")).ok()?;
            (fresh.one("SELECT pg_conf_load_time()") != before).then_some(())
        });
    }

    /// Starts the server again after [`Postgres::stop`].
    pub fn launch(&self) {
        let data = self.data_dir().display().to_string();
        let program = bin_dir().join("postgres").display().to_string();
        let mut command = as_server_user();
        command.extend([program, "-D".to_owned(), data]);
        let server = Server::start(&command, &self.dir.path().join("postgres.log"));
        until("Postgres accepts connections", || {
            assert!(!server.has_ended(), "postgres ended: {}", server.output());
            postgres_client(&self.dsn("postgres")).ok()
        });
        *self.server.lock().expect("not poisoned") = Some(server);
    }

    /// Stops the server. `Signal::Quit` is an immediate shutdown.
    pub fn stop(&self, signal: Signal) {
        if let Some(server) = self.server.lock().expect("not poisoned").take() {
            server.stop(signal);
        }
    }

    /// Copies the data directory, as a cold backup does. The server must not run.
    pub fn back_up(&self) {
        let _ = std::fs::remove_dir_all(self.backup_dir());
        run(Command::new("cp").arg("-a").arg(self.data_dir()).arg(self.backup_dir()));
    }

    /// Replaces the data directory with the copy: the database goes back in time. The server must not run.
    pub fn restore(&self) {
        std::fs::remove_dir_all(self.data_dir()).expect("data directory");
        run(Command::new("cp").arg("-a").arg(self.backup_dir()).arg(self.data_dir()));
    }

    fn backup_dir(&self) -> PathBuf {
        self.dir.path().join("backup")
    }

    /// Sends the postmaster a signal, and does not wait for its effect.
    pub fn signal(&self, signal: Signal) {
        if let Some(server) = self.server.lock().expect("not poisoned").as_ref() {
            server.signal(signal);
        }
    }

    /// Whether the server has ended or was never started.
    pub fn has_ended(&self) -> bool {
        self.server.lock().expect("not poisoned").as_ref().is_none_or(Server::has_ended)
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The directory of the unix socket.
    pub fn socket_dir(&self) -> String {
        self.dir.path().display().to_string()
    }

    /// TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A DSN over TCP as superuser.
    pub fn dsn(&self, database: &str) -> String {
        self.dsn_as("postgres", database)
    }

    /// A DSN over TCP as `user`.
    pub fn dsn_as(&self, user: &str, database: &str) -> String {
        format!("postgresql://{user}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// The server's log.
    pub fn log(&self) -> String {
        self.server.lock().expect("not poisoned").as_ref().map(Server::output).unwrap_or_default()
    }

    /// The server's version number, e.g. 150018.
    pub fn version(&self) -> u32 {
        let mut client = postgres_client(&self.dsn("postgres")).expect("connects");
        client.one("SHOW server_version_num").parse().expect("a number")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop(Signal::Quit);
    }
}

impl Database {
    /// A new database on the shared server.
    pub fn create() -> Database {
        Database::create_on(Postgres::shared())
    }

    /// A new database on the shared server, with `options` of CREATE DATABASE.
    pub fn create_with(options: &str) -> Database {
        Database::create_on_with(Postgres::shared(), options)
    }

    /// A new database on `server`. Its name is also valid for a slot and a publication.
    pub fn create_on(server: Arc<Postgres>) -> Database {
        Database::create_on_with(server, "")
    }

    fn create_on_with(server: Arc<Postgres>, options: &str) -> Database {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("t{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        postgres_client(&server.dsn("postgres")).expect("connects").run(&format!("CREATE DATABASE {name} {options}"));
        Database { server, name }
    }

    /// A DSN over TCP as superuser.
    pub fn dsn(&self) -> String {
        self.server.dsn(&self.name)
    }

    /// A DSN over TCP as `user`.
    pub fn dsn_as(&self, user: &str) -> String {
        self.server.dsn_as(user, &self.name)
    }

    /// Creates the daemon's least-privileged role with `sql/role.sql`.
    pub fn create_role(&self) {
        // Roles belong to the whole server: tests that share it must not create the same role at the same time.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _one = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.run(include_str!("../../sql/role.sql"));
    }

    /// A superuser's session.
    pub fn client(&self) -> Client {
        postgres_client(&self.dsn()).expect("connects")
    }

    /// Runs `sql` in its own session.
    pub fn run(&self, sql: &str) {
        self.client().run(sql);
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let Ok(mut client) = postgres_client(&self.server.dsn("postgres")) else { return };
        let name = &self.name;
        let terminate = format!(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = '{name}' AND active"
        );
        let drop_slots =
            format!("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = '{name}'");
        // Repeated, because a daemon that has not ended yet reopens its stream.
        until("the database's slots can be dropped", || {
            let _ = client.try_run(&terminate);
            client.try_run(&drop_slots).ok()
        });
        let _ = client.try_run(&format!("DROP DATABASE {name} WITH (FORCE)"));
    }
}

/// A blocking SQL session.
pub struct Client {
    runtime: tokio::runtime::Runtime,
    client: tokio_postgres::Client,
    notices: std::sync::mpsc::Receiver<String>,
}

/// Opens a session.
pub fn postgres_client(dsn: &str) -> Result<Client, tokio_postgres::Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
    let (client, mut connection) = runtime.block_on(tokio_postgres::connect(dsn, tokio_postgres::NoTls))?;
    let (told, notices) = std::sync::mpsc::channel();
    runtime.spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
            if let tokio_postgres::AsyncMessage::Notice(notice) = message {
                let _ = told.send(format!("{} | {}", notice.message(), notice.hint().unwrap_or_default()));
            }
        }
    });
    Ok(Client { runtime, client, notices })
}

impl Client {
    /// Runs statements; panics on an error.
    pub fn run(&mut self, sql: &str) {
        self.try_run(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// Runs statements.
    pub fn try_run(&mut self, sql: &str) -> Result<(), tokio_postgres::Error> {
        self.runtime.block_on(self.client.batch_execute(sql))
    }

    /// All rows as text, NULL as the empty string; panics on an error.
    pub fn rows(&mut self, sql: &str) -> Vec<Vec<String>> {
        self.try_rows(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"))
    }

    /// All rows as text, NULL as the empty string.
    pub fn try_rows(&mut self, sql: &str) -> Result<Vec<Vec<String>>, tokio_postgres::Error> {
        let messages = self.runtime.block_on(self.client.simple_query(sql))?;
        let row = |message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|i| row.get(i).unwrap_or_default().to_owned()).collect())
            }
            _ => None,
        };
        Ok(messages.into_iter().filter_map(row).collect())
    }

    /// Runs statements and returns their notices, each with its hint. Panics on an error.
    pub fn notices(&mut self, sql: &str) -> Vec<String> {
        self.notices.try_iter().for_each(drop);
        self.run(sql);
        self.notices.try_iter().collect()
    }

    /// Whether the session has ended.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// The one value of a query, as text.
    pub fn one(&mut self, sql: &str) -> String {
        self.rows(sql).swap_remove(0).swap_remove(0)
    }
}

/// The directory of the server's programs: `COHERD_TEST_PG_BIN`, or the answer of `pg_config`.
pub fn bin_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("COHERD_TEST_PG_BIN").filter(|dir| !dir.is_empty()) {
        return dir.into();
    }
    let output = Command::new("pg_config").arg("--bindir").output();
    let from_pg_config = output.ok().map(|o| PathBuf::from(String::from_utf8_lossy(&o.stdout).trim()));
    let newest = || {
        let mut dirs: Vec<PathBuf> =
            std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten().map(|d| d.path()).collect();
        dirs.sort();
        dirs.pop().map(|dir| dir.join("bin"))
    };
    from_pg_config.filter(|dir| dir.join("initdb").exists()).or_else(newest).expect("a Postgres installation")
}

/// Postgres refuses to run as root. For root, this prefix runs it as the user `postgres`.
fn as_server_user() -> Vec<String> {
    if !is_root() {
        return Vec::new();
    }
    ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"].map(str::to_owned).to_vec()
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}

fn give_to_server_user(path: &Path) {
    if is_root() {
        run(Command::new("chown").args(["-R", "postgres:"]).arg(path));
    }
}

/// A new data directory below the build directory, where the next run finds it.
fn initdb() -> PathBuf {
    let installation = bin_dir().display().to_string().replace('/', "_");
    let build = std::env::current_exe().expect("own path").parent().expect("a directory").to_owned();
    let kept = build.join(format!("pgdata{installation}"));
    if kept.exists() {
        return kept;
    }
    let made = initdb_in_temp_dir();
    let data = made.path().join("data");
    // A rename moves it into place atomically: another test run may be doing the same.
    let copy = build.join(format!("pgdata{installation}.{}", std::process::id()));
    run(Command::new("cp").arg("-a").arg(&data).arg(&copy));
    if std::fs::rename(&copy, &kept).is_err() {
        let _ = std::fs::remove_dir_all(&copy);
    }
    kept
}

fn initdb_in_temp_dir() -> TempDir {
    let dir = tempfile::Builder::new().prefix("initdb").tempdir().expect("temp dir");
    give_to_server_user(dir.path());
    let program = bin_dir().join("initdb").display().to_string();
    let data = dir.path().join("data").display().to_string();
    let mut command = as_server_user();
    let args = ["-D", &data, "-U", "postgres", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8"];
    command.push(program);
    command.extend(args.map(str::to_owned));
    run(Command::new(&command[0]).args(&command[1..]));
    dir
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
