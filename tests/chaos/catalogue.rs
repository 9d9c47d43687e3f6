//! Changes the catalogue under the daemon: takes tables out of the publication and puts them back, recreates, rewrites
//! and renames them. Most of this does not show in the stream.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::World;
use super::tables::{TABLES, Table};
use crate::support::Database;
use crate::support::chance::one_of;
use crate::support::postgres::Client;

/// The longest pause between two faults.
const PAUSE_MOST: Duration = Duration::from_millis(600);
/// The longest duration of a fault.
const LAST_MOST_MS: u64 = 2000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Removed from the publication, and added again a while later.
    Republish,
    /// Removed and added again in one transaction.
    RepublishAtOnce,
    /// Published with another column list.
    Columns,
    /// Published with a row filter, so that most rows are not sent.
    RowFilter,
    /// The publication publishes only INSERTs, for all tables.
    Operations,
    /// Only the primary key of old rows is logged.
    Identity,
    /// The key's column has another name for a while, and rows are written meanwhile.
    RenameColumn,
    /// Dropped and recreated with other rows, which no stream shows.
    Recreate,
    /// ALTER TABLE changes every row, which no stream shows.
    Rewrite,
    /// TRUNCATE of one partition alone, which no stream shows.
    TruncatePartition,
    /// A partition is detached with its rows, changes, and is attached again.
    DetachPartition,
}

const WEIGHTS: &[(u32, Fault)] = &[
    (4, Fault::Republish),
    (2, Fault::RepublishAtOnce),
    (2, Fault::Columns),
    (3, Fault::RowFilter),
    (3, Fault::Operations),
    (3, Fault::Identity),
    (2, Fault::RenameColumn),
    (3, Fault::Recreate),
    (3, Fault::Rewrite),
    (3, Fault::TruncatePartition),
    (3, Fault::DetachPartition),
];

/// What writers and readers may do while the fault lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Others {
    /// They continue.
    GoOn,
    /// They wait, because they would only fail.
    Wait,
    /// They wait at its start and its end, because the fault changes the table's contents.
    WaitAtBothEnds,
}

/// SQL of a fault. `fix` may be run any number of times, because a crash may have left any part of `hurt`.
struct Plan {
    table: usize,
    others: Others,
    hurt: String,
    repair: String,
}

/// The entry of each table in the publication: `users (id)`.
pub fn published(database: &Database) -> HashMap<String, String> {
    let sql = "SELECT c.relname, c.relname || coalesce(' (' || (SELECT string_agg(quote_ident(a.attname), ', ') \
        FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY (r.prattrs::int2[])) || ')', '') \
        FROM pg_publication_rel r JOIN pg_class c ON c.oid = r.prrelid";
    database.client().rows(sql).into_iter().map(|mut row| (row.remove(0), row.remove(0))).collect()
}

/// A thread that runs these faults one after the other.
pub struct Dba {
    world: Arc<World>,
    rng: Rng,
    sql: Client,
}

impl Dba {
    /// Runs until the world is calm. Fixes every fault that it has started.
    pub fn run(world: Arc<World>, rng: Rng) {
        let Some(sql) = world.connect() else { return };
        let mut dba = Dba { world, rng, sql };
        while !dba.world.is_calm() {
            let pause = dba.rng.u64(..u64::try_from(PAUSE_MOST.as_millis()).expect("short"));
            dba.pause(pause);
            dba.act();
        }
    }

    fn act(&mut self) {
        let fault = one_of(&mut self.rng, WEIGHTS.iter());
        let plan = self.plan(fault);
        let name = TABLES[plan.table].name;
        let hold = || self.world.holds.table(plan.table);
        let held = if plan.others == Others::GoOn { None } else { Some(hold()) };
        // Writers or readers cannot finish, because the server or a cache is down.
        if matches!(held, Some(None)) || self.world.is_calm() {
            return;
        }
        let hurt = self.sql.try_run(&plan.hurt).map_err(|error| error.to_string());
        if self.sql.is_closed() {
            // The statement may have succeeded. Readers that were kept waiting see the result once the server is back.
            self.sql = self.world.connect().expect("faults end before the world does");
        }
        self.told(&format!("fault: {fault:?} {name}: {hurt:?}"));
        let held = held.flatten().filter(|_| plan.others == Others::Wait);
        let lasts = self.rng.u64(..LAST_MOST_MS);
        self.pause(lasts);
        let again = (plan.others == Others::WaitAtBothEnds).then(|| self.hold(plan.table));
        self.repair(&plan.repair);
        self.told(&format!("fixed: {fault:?} {name}"));
        self.world.history.count(&format!("faults of the catalogue: {fault:?}"), 1);
        drop((held, again));
    }

    fn hold(&self, table: usize) -> super::holds::Held {
        loop {
            if let Some(held) = self.world.holds.table(table) {
                return held;
            }
        }
    }

    fn pause(&self, millis: u64) {
        let end = Instant::now() + Duration::from_millis(millis);
        while Instant::now() < end && !self.world.is_calm() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Retries until it succeeds.
    fn repair(&mut self, sql: &str) {
        while let Err(error) = self.sql.try_run(sql) {
            self.world.history.of_all(&format!("not fixed: {error:?}"));
            // An error other than a lost connection may be a deadlock, or a mistake in this file, which then shows as a
            // run that never ends.
            std::thread::sleep(Duration::from_millis(20));
            if self.sql.is_closed() {
                self.sql = self.world.connect().expect("faults end before the world does");
            }
        }
    }

    fn told(&self, what: &str) {
        self.world.history.of_all(what);
        self.world.catalogue_changed();
    }

    fn plan(&mut self, fault: Fault) -> Plan {
        let publication = self.world.database.clone();
        let named = |name: &str| TABLES.iter().position(|table| table.name == name).expect("a table of that name");
        let table = match fault {
            Fault::Identity => named("items"),
            Fault::TruncatePartition | Fault::DetachPartition => named("events"),
            // A column list together with REPLICA IDENTITY FULL makes UPDATEs fail.
            Fault::Columns => {
                [named("users"), named("accounts"), named("products"), named("events")][self.rng.usize(..4)]
            }
            _ => self.rng.usize(..TABLES.len()),
        };
        let its = &TABLES[table];
        let (name, key) = (its.name, key_column(its));
        let plan = |others, hurt: String, repair: String| Plan { table, others, hurt, repair };
        let leave = format!("ALTER PUBLICATION {publication} DROP TABLE {name};");
        let enter = |how: &str| format!("ALTER PUBLICATION {publication} ADD TABLE {name} {how};");
        let restored = self.restored(its);
        match fault {
            Fault::Republish => plan(Others::GoOn, leave, restored),
            Fault::RepublishAtOnce => {
                let published = &self.world.published[name];
                let pause = self.rng.f64();
                let at_once = format!("{leave} SELECT pg_sleep({pause}); ALTER PUBLICATION {publication} ADD TABLE {published};");
                plan(Others::GoOn, format!("BEGIN; {at_once} COMMIT"), self.present(its))
            }
            Fault::Columns => plan(Others::GoOn, leave + &enter(""), restored),
            Fault::RowFilter => {
                let half = format!("WHERE (length({key}::text) % 2 = 0)");
                plan(Others::GoOn, leave + &enter(&half), restored)
            }
            Fault::Operations => {
                let publish = |what| format!("ALTER PUBLICATION {publication} SET (publish = '{what}')");
                plan(Others::GoOn, publish("insert"), publish("insert, update, delete, truncate"))
            }
            Fault::Identity => plan(
                Others::GoOn,
                format!("ALTER TABLE {name} REPLICA IDENTITY DEFAULT"),
                format!("ALTER TABLE {name} REPLICA IDENTITY FULL"),
            ),
            Fault::RenameColumn => {
                let write = format!("UPDATE {name} SET v = nextval('v') WHERE random() < 0.1");
                let back = format!(
                    "IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = '{name}'::regclass AND attname = 'renamed') \
                     THEN ALTER TABLE {name} RENAME renamed TO {key}; END IF;"
                );
                let hurt = format!("ALTER TABLE {name} RENAME {key} TO renamed; {write}");
                plan(Others::Wait, hurt, format!("DO $$ BEGIN {back} END $$; {write}"))
            }
            Fault::Recreate => {
                let made = self.made_anew(its);
                let hurt = if self.rng.bool() { format!("DROP TABLE {name}") } else { made.clone() };
                plan(Others::Wait, hurt, made)
            }
            Fault::Rewrite => {
                plan(Others::Wait, format!("ALTER TABLE {name} ALTER v TYPE bigint USING nextval('v')"), String::new())
            }
            Fault::TruncatePartition => plan(Others::Wait, "TRUNCATE events_0".to_owned(), String::new()),
            Fault::DetachPartition => plan(
                Others::WaitAtBothEnds,
                "ALTER TABLE events DETACH PARTITION events_0; UPDATE events_0 SET v = nextval('v') WHERE random() < 0.5"
                    .to_owned(),
                ATTACHED.to_owned(),
            ),
        }
    }

    /// SQL that creates the table with other rows, and drops an existing one.
    fn made_anew(&mut self, table: &Table) -> String {
        let numbers: Vec<u32> = (0..table.numbers / 2).filter(|_| self.rng.u32(..3) > 0).collect();
        let (publication, name) = (&self.world.database, table.name);
        let published = &self.world.published[name];
        let (create, insert) = (table.create, table.insert(&numbers));
        format!(
            "BEGIN; DROP TABLE IF EXISTS {name}; {create}; {insert}; \
             ALTER PUBLICATION {publication} ADD TABLE {published}; COMMIT"
        )
    }

    /// SQL that restores the table's original entry in the publication, whatever it is at present.
    fn restored(&self, table: &Table) -> String {
        let (publication, name) = (&self.world.database, table.name);
        let published = &self.world.published[name];
        format!(
            "DO $$ BEGIN IF {} THEN ALTER PUBLICATION {publication} DROP TABLE {name}; END IF; \
             ALTER PUBLICATION {publication} ADD TABLE {published}; END $$",
            is_published(publication, name)
        )
    }

    /// SQL that puts the table into the publication.
    fn present(&self, table: &Table) -> String {
        let (publication, name) = (&self.world.database, table.name);
        let published = &self.world.published[name];
        format!(
            "DO $$ BEGIN IF NOT {} THEN ALTER PUBLICATION {publication} ADD TABLE {published}; END IF; END $$",
            is_published(publication, name)
        )
    }
}

/// While the partition was detached, its rows went to the default partition.
const ATTACHED: &str = "DO $$ BEGIN IF NOT (SELECT relispartition FROM pg_class WHERE oid = 'events_0'::regclass) THEN
    WITH moved AS (DELETE FROM events_1 WHERE region = 0 RETURNING *)
        INSERT INTO events_0 SELECT * FROM moved ON CONFLICT DO NOTHING;
    ALTER TABLE events ATTACH PARTITION events_0 FOR VALUES IN (0); END IF; END $$";

fn is_published(publication: &str, name: &str) -> String {
    format!(
        "EXISTS (SELECT FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid \
         WHERE p.pubname = '{publication}' AND r.prrelid = '{name}'::regclass)"
    )
}

fn key_column(table: &Table) -> &'static str {
    match table.name {
        "accounts" => "email",
        "items" => "order_id",
        _ => "id",
    }
}
