//! Prints each result at once, and keeps it in `target/bench`, where a later run of other parts adds to it.
//!
//! `result.json` has the machine and the tables. `performance.md` is the same as a page; `docs/performance.md` is a
//! copy of such a page (`KEEP=1` writes it).

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

/// The page's explanation of each table.
const ABOUT: &[(&str, &str)] = &[
    (
        "drain",
        "A backlog of changes (a: single-row transactions, b: one transaction, c: transactions of 10 to 100 rows over three \
         tables), drained alternately; medians of all rounds. *floor* is a bare consumer of the bench: one thread, no TLS, no \
         record, no gate, no retries. floor and coherd delete every key from Redis, pg_recvlogical writes to /dev/null. The \
         clock starts when the walsender holds the slot and stops when the last key is gone.",
    ),
    ("drain, coherd beside the others", "The ratios of the table above."),
    (
        "inside, key columns",
        "System calls of the whole process (perf), allocations between a fifth and nine tenths of the backlog.",
    ),
    (
        "live",
        "Single-row commits at a fixed rate by 8 sessions, `fsync = on`, `synchronous_commit = on`: from the moment at which \
         COMMIT has returned to the one at which Redis tells that the key is gone; medians of all rounds.",
    ),
    (
        "writers",
        "Transactions a second of 4 sessions that write as fast as they can, on the same cores as everything else, so that \
         whatever a consumer and its walsender use is missing for the writers. The ratio is the median of the rounds' own.",
    ),
    (
        "flush",
        "A flush of many scopes (one TRUNCATE) in a Redis full of other keys, at the default `limits.flush_keys_per_second`, \
         beside small commits on another table, one after the other.",
    ),
    (
        "growth",
        "One thing more of at a time; transactions of 20 rows, TCP. ![CPU time as rules, tables, keys and targets grow](growth.svg)",
    ),
    (
        "large transaction",
        "One INSERT of so many rows, each with a key, beside small commits on another table, one after the other.",
    ),
    (
        "large transaction, drained by pg_recvlogical",
        "Protocol 1 decodes at commit; protocol 2 sends in pieces before it.",
    ),
];

/// The rows of one measurement, with the names of their columns.
struct Table {
    name: String,
    date: String,
    rows: Vec<Vec<(String, Value)>>,
}

/// Tables in the order in which they were added.
pub(crate) struct Report {
    tables: Vec<Table>,
    /// The names of tables from earlier runs that this run has not replaced.
    earlier: Vec<String>,
    date: String,
}

impl Report {
    /// Opens the report with the results of earlier runs.
    pub(crate) fn open() -> Report {
        let text = std::fs::read_to_string(directory().join("result.json")).unwrap_or_default();
        let kept: Value = serde_json::from_str(&text).unwrap_or_default();
        let tables: Vec<Table> =
            kept["tables"].as_array().map(|all| all.iter().filter_map(read).collect()).unwrap_or_default();
        let earlier = tables.iter().map(|table| table.name.clone()).collect();
        Report { tables, earlier, date: output("date", &["-u", "+%F"]) }
    }

    /// Adds a row to a table and prints it.
    pub(crate) fn row(&mut self, name: &str, cells: &[(&str, Value)]) {
        let said: Vec<String> = cells.iter().map(|(name, value)| format!("{name} {}", text(value))).collect();
        println!("{name}: {}", said.join(" · "));
        let row = cells.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        if let Some(place) = self.earlier.iter().position(|its| its == name) {
            self.earlier.remove(place);
            self.tables.retain(|table| table.name != name);
        }
        match self.tables.iter_mut().find(|table| table.name == name) {
            Some(table) => table.rows.push(row),
            None => self.tables.push(Table { name: name.to_owned(), date: self.date.clone(), rows: vec![row] }),
        }
    }

    /// Prints the page. `KEEP=1` also writes it to docs.
    pub(crate) fn close(&self) {
        println!("\n{}", self.save());
        if std::env::var("KEEP").is_ok_and(|keep| keep == "1") {
            let docs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs");
            let names = ["performance.md", "growth.svg"];
            for name in names.into_iter().filter(|name| directory().join(name).exists()) {
                let copied = std::fs::copy(directory().join(name), docs.join(name));
                copied.unwrap_or_else(|error| panic!("{name}: {error}"));
            }
        }
    }

    /// Saves everything measured so far, so that an interrupted run is not lost. Returns the page.
    pub(crate) fn save(&self) -> String {
        let machine = machine();
        let table = |table: &Table| json!({ "name": table.name, "date": table.date, "rows": table.rows });
        let tables: Vec<Value> = self.tables.iter().map(table).collect();
        let result = json!({ "machine": machine, "tables": tables });
        keep("result.json", &serde_json::to_string_pretty(&result).expect("JSON"));
        let page = self.page(&machine);
        keep("performance.md", &page);
        page
    }

    fn page(&self, machine: &[(String, String)]) -> String {
        let mut page =
            String::from("# Performance\n\nMeasured by `make bench` (`benches/bench`), all on one machine:\n\n");
        for (name, value) in machine {
            page.extend(["- ", name, ": ", value, "\n"]);
        }
        if let Ok(caveat) = std::env::var("CAVEAT") {
            page.extend(["\n", &caveat, "\n"]);
        }
        for (name, about) in ABOUT {
            let Some(table) = self.tables.iter().find(|table| table.name == *name) else { continue };
            page.extend(["\n## ", name, "\n\n", about, " (", &table.date, ")\n\n"]);
            table.markdown(&mut page);
        }
        page
    }
}

impl Table {
    fn markdown(&self, page: &mut String) {
        let mut columns: Vec<&String> = Vec::new();
        for (name, _) in self.rows.iter().flatten() {
            if !columns.contains(&name) {
                columns.push(name);
            }
        }
        let mut line = |cells: Vec<String>| page.extend(["| ", &cells.join(" | "), " |\n"]);
        line(columns.iter().map(ToString::to_string).collect());
        line(columns.iter().map(|_| "---".to_owned()).collect());
        for row in &self.rows {
            let cell = |name: &String| row.iter().find(|(its, _)| its == name).map(|(_, value)| text(value));
            line(columns.iter().map(|name| cell(name).unwrap_or_default()).collect());
        }
    }
}

fn read(table: &Value) -> Option<Table> {
    let rows = serde_json::from_value(table["rows"].clone()).ok()?;
    Some(Table { name: table["name"].as_str()?.to_owned(), date: table["date"].as_str()?.to_owned(), rows })
}

/// The machine and the software versions.
fn machine() -> Vec<(String, String)> {
    let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = file("/proc/cpuinfo");
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let cores = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let kib: u64 =
        field(&file("/proc/meminfo"), "MemTotal").split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
    let postgres = crate::support::postgres::bin_dir().join("postgres").display().to_string();
    let pairs = [
        ("CPU", format!("{}, {cores} cores", field(&cpus, "model name"))),
        ("memory", format!("{} GiB", (kib + (1 << 19)) >> 20)),
        ("kernel", format!("Linux {}", file("/proc/sys/kernel/osrelease").trim())),
        ("Postgres", output(&postgres, &["--version"])),
        ("Redis", output("redis-server", &["--version"]).split(" sha=").next().unwrap_or_default().to_owned()),
        ("TCP congestion control", file("/proc/sys/net/ipv4/tcp_congestion_control").trim().to_owned()),
        ("Rust", output("rustc", &["--version"])),
        ("coherd", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    pairs.map(|(name, value)| (name.to_owned(), value)).into()
}

fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

/// Saves a file next to the tables.
pub(crate) fn keep(name: &str, text: &str) {
    std::fs::create_dir_all(directory()).expect("target/bench");
    std::fs::write(directory().join(name), text).expect("target/bench");
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/bench")
}

/// A number with three significant digits; large numbers in full.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(all) => all.iter().map(text).collect::<Vec<_>>().join(" "),
        Value::Null => "–".to_owned(),
        Value::Number(number) => match number.as_f64() {
            Some(n) if n.fract() == 0.0 || n.abs() >= 100.0 => format!("{n:.0}"),
            Some(n) if n.abs() >= 10.0 => format!("{n:.1}"),
            Some(n) if n.abs() >= 0.1 => format!("{n:.2}"),
            Some(n) => format!("{n:.4}"),
            None => number.to_string(),
        },
        other => other.to_string(),
    }
}
