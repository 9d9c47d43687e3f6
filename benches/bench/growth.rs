//! How the cost grows along one axis at a time, with everything else small. coherd drains backlogs of transactions of
//! 20 rows over TCP. The plot shows CPU time, which other work on the machine affects least.

use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::json;

use crate::backlog::{Backlog, SETTINGS};
use crate::cache::Cache;
use crate::drain::{Drain, How, by_follower};
use crate::meter::median;
use crate::options::{Consumer, Options, Transport, number};
use crate::plot::{Panel, plot};
use crate::report::{Report, keep};
use crate::support::Postgres;

/// The most tables without rules.
const TABLES_MAX: u64 = 10_000;

/// The most targets.
const TARGETS_MAX: usize = 8;

struct Growth<'a> {
    backlog: Backlog,
    caches: Vec<Cache>,
    rounds: usize,
    report: &'a mut Report,
    panels: Vec<Panel>,
}

/// Measures every axis.
pub(crate) fn run(options: &Options, report: &mut Report) {
    let changes = number("GROWTH_CHANGES", 200_000);
    let server = Arc::new(Postgres::start(SETTINGS));
    let mut backlog = Backlog::create(&server, changes);
    for first in (0..TABLES_MAX).step_by(500) {
        let create = |n| format!("CREATE TABLE t{n} (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int);");
        backlog.sql.run(&(first..first + 500).map(create).collect::<String>());
    }
    backlog.sql.run("CREATE PUBLICATION everything FOR ALL TABLES");
    backlog.tables.truncate(1);
    let caches = std::iter::repeat_with(Cache::start).take(TARGETS_MAX).collect();
    let mut growth = Growth { backlog, caches, rounds: options.rounds, report, panels: Vec::new() };
    growth.tables();
    growth.backlog.log(|backlog| backlog.twenties(1, 0));
    growth.rules();
    growth.keys();
    growth.targets();
    growth.key_bytes();
    keep("growth.svg", &plot(&growth.panels));
}

impl Growth<'_> {
    /// Half of the changes are in tables that are published and have no rule.
    fn tables(&mut self) {
        for tables in [10, 100, 1000, TABLES_MAX] {
            self.backlog.log(|backlog| backlog.twenties(tables, 10));
            self.point("tables, of which one is mapped", tables, "everything", 1);
        }
    }

    /// The further rules are for tables that are not written.
    fn rules(&mut self) {
        for rules in [1, 10, 100, 1000] {
            self.backlog.other_rules.clear();
            for table in 1..rules {
                let _ = writeln!(self.backlog.other_rules, "  - {{ table: t{table}, keys: [\"t{table}:{{id}}\"] }}");
            }
            self.point("rules", rules, "everything", 1);
        }
        self.backlog.other_rules.clear();
    }

    fn keys(&mut self) {
        for keys in 1..=5 {
            self.backlog.tables[0].templates = (0..keys).map(|place| format!("item:{place}:{{id}}")).collect();
            self.point("keys of a row", keys, "keys", 1);
        }
        self.backlog.tables[0].templates.truncate(1);
    }

    fn targets(&mut self) {
        for targets in [1, 2, 4, TARGETS_MAX] {
            self.point("targets", targets as u64, "keys", targets);
        }
    }

    fn key_bytes(&mut self) {
        for bytes in [20, 50, 100, 200, 500] {
            // The id takes about six of these bytes.
            self.backlog.tables[0].templates = vec![format!("item:{}:{{id}}", "x".repeat(bytes - 12))];
            self.point("bytes of a key", bytes as u64, "keys", 1);
        }
    }

    fn point(&mut self, axis: &'static str, at: u64, publication: &str, targets: usize) {
        let million = self.backlog.changes as f64 / 1e6;
        let how = How { consumer: Consumer::Coherd, transport: Transport::Tcp, publication, program: None };
        let mut drains: Vec<Drain> = Vec::new();
        for _round in 0..self.rounds {
            let slot = self.backlog.slot();
            drains.push(by_follower(&mut self.backlog, &mut self.caches[..targets], &slot, &how, |_, _| ()));
            self.backlog.drop_slot(&slot);
        }
        let of = |value: &dyn Fn(&Drain) -> f64| median(drains.iter().map(value));
        let cpu = of(&|drain| drain.usage.cpu_seconds / million);
        self.report.row(
            "growth",
            &[
                ("what grows", json!(axis)),
                ("number", json!(at)),
                ("CPU s/million", json!(cpu)),
                ("changes/s", json!(of(&|drain| million * 1e6 / drain.seconds).round())),
                ("peak RSS MiB", json!(of(&|drain| drain.usage.peak_rss_kib as f64 / 1024.0))),
            ],
        );
        match self.panels.iter_mut().find(|panel| panel.title == axis) {
            Some(panel) => panel.points.push((at, cpu)),
            None => self.panels.push(Panel { title: axis, points: vec![(at, cpu)] }),
        }
    }
}
