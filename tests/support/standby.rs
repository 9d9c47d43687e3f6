//! Standbys: copies of a running server that follow it and can be promoted.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use super::Postgres;
use super::postgres::postgres_client;
use super::wait::{until, until_within};

/// The physical slot on the primary that its standby follows. A primary has one standby.
pub const STANDBY_SLOT: &str = "standby";

/// The standby's application name, for `synchronous_standby_names`.
pub const STANDBY_NAME: &str = "stand_by";

/// The first sync of a slot waits for the slot to move, and for a worker that sleeps up to 30 seconds.
const SYNC_PATIENCE: std::time::Duration = std::time::Duration::from_secs(90);

impl Postgres {
    /// A streaming standby of this server, configured for failover slots, with `settings` appended to its
    /// postgresql.conf. It is made as `pg_basebackup` does it, because not every installation has that program.
    pub fn standby(&self, settings: &str) -> Postgres {
        let mut primary = postgres_client(&self.dsn("postgres")).expect("connects");
        primary.run(&format!("SELECT pg_create_physical_replication_slot('{STANDBY_SLOT}', true)"));
        primary.run("SELECT pg_backup_start('standby', true)");
        let settings = format!(
            "{}\nprimary_slot_name = '{STANDBY_SLOT}'\nhot_standby_feedback = on\nwal_retrieve_retry_interval = 100ms\n\
             wal_receiver_status_interval = 1s\n{settings}",
            self.conninfo()
        );
        Postgres::start_in(&settings, |data| {
            copy(&self.data_dir(), data);
            let stopped = primary.rows("SELECT labelfile FROM pg_backup_stop(false)");
            std::fs::write(data.join("backup_label"), &stopped[0][0]).expect("data directory");
            std::fs::write(data.join("standby.signal"), "").expect("data directory");
        })
    }

    /// The setting with which a standby connects to this server. Slots are synchronized over an ordinary connection,
    /// which needs a database.
    fn conninfo(&self) -> String {
        let port = self.port();
        format!(
            "primary_conninfo = 'host=127.0.0.1 port={port} user=postgres dbname=postgres application_name={STANDBY_NAME}'"
        )
    }

    /// Makes commits wait for the standbys in `names` (`synchronous_standby_names`) until the result is dropped.
    pub fn wait_for(self: &Arc<Postgres>, names: &str) -> Waiting {
        let waiting = Waiting(Arc::clone(self));
        let mut client = postgres_client(&self.dsn("postgres")).expect("connects");
        client.run(&format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'"));
        self.reload();
        waiting
    }

    /// Waits until unconfirmed commits do wait. The checkpointer reads the setting a moment after a session that asks
    /// for it, and no commit waits before that.
    pub fn until_commits_wait(&self) {
        let mut sql = postgres_client(&self.dsn("postgres")).expect("connects");
        until("commits wait for a standby", || {
            let mut probe = postgres_client(&self.dsn("postgres")).expect("connects");
            let pid = probe.one("SELECT pg_backend_pid()");
            let probing = std::thread::spawn(move || probe.run("SELECT pg_logical_emit_message(true, 'probe', '')"));
            let waits = format!("SELECT 1 FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'SyncRep'");
            let has_waited = until("the probe waits or is done", || {
                let is_done = probing.is_finished();
                let waits = !sql.rows(&waits).is_empty();
                (waits || is_done).then_some(waits)
            });
            until("the probe is done", || {
                sql.run(&format!("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE pid = {pid}"));
                probing.is_finished().then_some(())
            });
            has_waited.then_some(())
        });
    }

    /// Waits until this standby has replayed everything that `primary` has flushed.
    pub fn catch_up(&self, primary: &Postgres) {
        let end = postgres_client(&primary.dsn("postgres")).expect("connects").one("SELECT pg_current_wal_flush_lsn()");
        let mut client = postgres_client(&self.dsn("postgres")).expect("connects");
        until("the standby has replayed the primary's log", || {
            let replayed = client.one(&format!("SELECT pg_last_wal_replay_lsn() >= '{end}'"));
            (replayed == "t").then_some(())
        });
    }

    /// Makes this standby stop receiving. It keeps what it has.
    pub fn cut_off(&self) {
        self.alter("primary_conninfo = ''");
        let mut client = postgres_client(&self.dsn("postgres")).expect("connects");
        until("the standby receives nothing", || {
            client.rows("SELECT 1 FROM pg_stat_wal_receiver").is_empty().then_some(())
        });
    }

    /// Makes this standby follow `primary` again after [`Postgres::cut_off`].
    pub fn follow(&self, primary: &Postgres) {
        self.alter(&primary.conninfo());
    }

    fn alter(&self, setting: &str) {
        let mut client = postgres_client(&self.dsn("postgres")).expect("connects");
        client.run(&format!("ALTER SYSTEM SET {setting}"));
        self.reload();
    }

    /// Promotes this standby and waits until it is a primary.
    pub fn promote(&self) {
        let mut client = postgres_client(&self.dsn("postgres")).expect("connects");
        assert_eq!(client.one("SELECT pg_promote(true, 60)"), "t", "not promoted: {}", self.log());
    }

    /// Waits until this standby has a permanent copy of `primary`'s failover slot `slot` (17 and later). The slot must
    /// be in use: the first sync waits for it to move.
    pub fn sync_slot(&self, primary: &Postgres, slot: &str) {
        let mut there = postgres_client(&primary.dsn("postgres")).expect("connects");
        let mut here = postgres_client(&self.dsn("postgres")).expect("connects");
        let synced =
            format!("SELECT 1 FROM pg_replication_slots WHERE slot_name = '{slot}' AND synced AND NOT temporary");
        until_within(SYNC_PATIENCE, "the slot is on the standby", || {
            there.run("SELECT pg_log_standby_snapshot()");
            // Refused while a worker does this itself (sync_replication_slots).
            let _ = here.try_run("SELECT pg_sync_replication_slots()");
            here.rows(&synced).pop()
        });
    }

    /// Repeatedly logs the running transactions on this primary until the result is dropped: creating a slot on a
    /// standby waits for that record.
    pub fn tell_standbys(&self) -> Telling {
        let mut client = postgres_client(&self.dsn("postgres")).expect("connects");
        let (telling, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            while ended.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                client.run("SELECT pg_log_standby_snapshot(), pg_sleep(0.1)");
            }
        });
        Telling { _telling: telling }
    }
}

/// See [`Postgres::wait_for`]. Dropping it resets the setting even if a test fails: a session whose commit waits keeps
/// its server from stopping.
pub struct Waiting(Arc<Postgres>);

impl Drop for Waiting {
    fn drop(&mut self) {
        let Ok(mut client) = postgres_client(&self.0.dsn("postgres")) else { return };
        let _ = client.try_run("ALTER SYSTEM RESET synchronous_standby_names");
        let _ = client.try_run("SELECT pg_reload_conf()");
    }
}

/// See [`Postgres::tell_standbys`].
pub struct Telling {
    _telling: std::sync::mpsc::Sender<()>,
}

/// Copies the data directory of a running server, without the files of its process and its slots.
fn copy(from: &Path, to: &Path) {
    let output = Command::new("cp").arg("-a").arg(from).arg(to).output().expect("cp");
    // During the copy, log files are recycled and temporary files come and go. Recovery does not need them.
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let vanished = said.lines().all(|line| line.contains("No such file or directory"));
    assert!(output.status.success() || (vanished && !said.is_empty()), "cp: {said}");
    for name in ["postmaster.pid", "postmaster.opts"] {
        let _ = std::fs::remove_file(to.join(name));
    }
    for slot in std::fs::read_dir(to.join("pg_replslot")).expect("data directory") {
        std::fs::remove_dir_all(slot.expect("a slot").path()).expect("a slot");
    }
}
