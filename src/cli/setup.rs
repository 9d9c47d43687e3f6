//! `coherd setup`: publication, functions and slot, in that order, without harming a writer.
//!
//! [`plan`] decides, from what the catalogue shows; [`carry_out`] does it; what is left is what the audit then finds.

use std::fmt::Write as _;

use anyhow::Context as _;
use tokio_postgres::Client;

mod first_record;
mod replayed;

use super::{Failure, parts, print};
use crate::config::Config;
use crate::database::{Database, Operations, Publication, Slot};
use crate::finding::{Code, Finding, Severity};
use crate::lsn::Lsn;
use crate::rules::audit::{audit, by_table};
use crate::rules::config::Rule;
use crate::rules::publish::{Demand, Identity};
use crate::source::catalog::{CatalogError, look};
use crate::source::sql::connect;
use crate::source::{SlotSeen, Source as _, SourceError};
use crate::table::{Persistence, Published, PublishedBy, Table, TableKind, TableName, quote_identifier, quote_literal};
use crate::target::config::Library;

/// The functions for applications and DBAs.
pub const FUNCTIONS: &str = include_str!("../../sql/coherd.sql");

/// The comment on the schema that this version's functions leave behind.
pub const FUNCTIONS_COMMENT: &str = "Cache coherence: read your writes, invalidation by hand, status (version 5)";

/// How long a statement may wait for a lock; writers never wait for one of these.
const LOCK_TIMEOUT: &str = "SET lock_timeout = '10s'";

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Each independent of the others, but for the first, which they may need.
    pub steps: Vec<Step>,
    /// Whether a slot is to be created, after everything else: a publication made after its slot breaks the stream.
    pub slot: bool,
    /// Why something is left undone that the audit does not see.
    pub findings: Vec<Finding>,
}

/// Statements that belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What they make: `publication coherd`.
    pub subject: String,
    /// In order.
    pub statements: Vec<String>,
}

impl Plan {
    /// Every statement.
    pub fn statements(&self) -> Vec<String> {
        self.steps.iter().flat_map(|step| step.statements.iter().cloned()).collect()
    }

    /// Whether everything is there already.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && !self.slot
    }
}

/// What [`carry_out`] did.
#[derive(Debug, Default)]
pub struct Report {
    /// Subjects of the steps that were done.
    pub done: Vec<String>,
    /// The position from which a slot that was created here sends.
    pub slot: Option<Lsn>,
    /// What still stands in the way.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether an error is left, or a question without an answer.
    pub fn failed(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity > Severity::Warning)
    }
}

/// What is missing, as SQL. Nothing is ever taken out of a publication, and no table is added whose writes would then
/// fail.
pub fn plan(rules: &[Rule], database: &Database) -> Plan {
    let mut plan = Plan::default();
    let publication = quote_identifier(&database.publication_name);
    if database.server.in_recovery {
        let message = "it is a standby, where nothing can be created; give the primary's address with --dsn";
        plan.findings.push(Finding::error(Code::SETUP_STANDBY, "source", message));
        return plan;
    }
    match (&database.publication, &database.slot) {
        (None, Some(slot)) => {
            plan.findings.push(slot_without_publication(database, slot));
            return plan;
        }
        (None, None) => plan.steps.push(Step {
            subject: format!("publication {publication}"),
            statements: vec![format!("CREATE PUBLICATION {publication} WITH (publish_via_partition_root = true);")],
        }),
        (Some(_), _) => {}
    }
    let with_publication = if database.publication.is_some() { None } else { Some(with_publication(database)) };
    let database_then = with_publication.as_ref().unwrap_or(database);
    for (name, rules) in by_table(rules) {
        let Some(table) = database_then.table(name) else { continue };
        let statements = table_statements(&Demand { database: database_then, table, rules: &rules });
        if !statements.is_empty() {
            plan.steps.push(Step { subject: format!("table {name}"), statements });
        }
    }
    if database.functions.as_deref() != Some(FUNCTIONS_COMMENT) {
        let statements = vec![FUNCTIONS.trim_end().to_owned()];
        plan.steps.push(Step { subject: "schema coherd".to_owned(), statements });
    }
    plan.slot = database.slot.is_none();
    plan
}

/// The database as it will be once the publication is there, empty.
fn with_publication(database: &Database) -> Database {
    let operations = Operations { insert: true, update: true, delete: true, truncate: true };
    let publication = Publication {
        owned: true,
        all_tables: false,
        holds_schemas: false,
        operations,
        via_root: true,
        generated: false,
    };
    Database { publication: Some(publication), ..database.clone() }
}

/// Its stream would stop at the first change that was written while there was no publication.
pub(super) fn slot_without_publication(database: &Database, slot: &Slot) -> Finding {
    let message = format!(
        "the slot is there but publication {} is not, and a publication made after its slot breaks the stream; drop the \
         slot, then run coherd setup again",
        quote_identifier(&database.publication_name)
    );
    let subject = format!("slot {}", quote_identifier(&database.slot_name));
    let finding = Finding::error(Code::SLOT_BEFORE_PUBLICATION, subject, message);
    let finding = match slot.active_pid {
        Some(pid) => finding.mend(format!("-- stop the daemon that process {pid} serves")),
        None => finding,
    };
    finding.mend(format!("SELECT pg_drop_replication_slot({});", quote_literal(&database.slot_name).trim_start()))
}

/// Adds the table, or widens its column list. A table that has to be changed first is left to the audit's remedies.
fn table_statements(demand: &Demand) -> Vec<String> {
    let table = demand.table;
    if !can_be_published(table) || !table.has_identity() {
        return Vec::new();
    }
    let list = demand.column_list(&Identity::Keep);
    match &table.published {
        None => vec![demand.add(list.as_deref())],
        // Somebody meant the row filter; the audit says what it hides.
        Some(held) if held.by != PublishedBy::Table || held.row_filter => Vec::new(),
        Some(held) if demand.entry_is_wrong(held, list.as_deref()) => demand.replace(list.as_deref()).to_vec(),
        Some(_) => Vec::new(),
    }
}

fn can_be_published(table: &Table) -> bool {
    table.kind != TableKind::Unpublishable
        && table.persistence == Persistence::Permanent
        && table.partition_root.is_none()
}

/// Does what `plan` says, each step on its own, then looks again. `create_slot` runs last, and only where nothing that
/// the slot depends on has failed; it may run as another role than `client`. It gives `None` where somebody else has
/// made the slot meanwhile.
///
/// The position in the answer is where the slot's memory begins: the first record of each target belongs there.
pub async fn carry_out(
    client: &Client,
    rules: &[Rule],
    database: &Database,
    plan: Plan,
    create_slot: impl AsyncFnOnce() -> Result<Option<Lsn>, SourceError>,
) -> Result<Report, CatalogError> {
    let mut report = Report { findings: plan.findings, ..Report::default() };
    let mut failed = execute(client, &[LOCK_TIMEOUT.to_owned()]).await.err();
    for step in plan.steps {
        if failed.is_some() {
            break;
        }
        match execute(client, &step.statements).await {
            Ok(()) => report.done.push(step.subject),
            Err(got) => {
                let needed_by_all = step.subject.starts_with("publication");
                report.findings.push(refused(&step, &got, database));
                failed = needed_by_all.then_some(got);
            }
        }
    }
    let names: Vec<TableName> = rules.iter().map(|rule| rule.table.clone()).collect();
    let after = look(client, &database.slot_name, &database.publication_name, &names).await?;
    if plan.slot && after.publication.is_some() {
        match create_slot().await {
            Ok(None) => {}
            Ok(at @ Some(_)) => {
                report.slot = at;
                report.done.push(format!("slot {}", quote_identifier(&database.slot_name)));
            }
            Err(error) => report.findings.push(Finding::error(Code::SETUP_REFUSED, "source", error.to_string())),
        }
    }
    // Who has just run it is told what stood in its way, not to run it.
    let hindered = !report.findings.is_empty();
    let audited = audit(rules, &after).into_iter();
    report.findings.extend(audited.filter(|finding| !hindered || finding.remedy != ["coherd setup"]));
    Ok(report)
}

fn refused(step: &Step, got: &str, database: &Database) -> Finding {
    let role = quote_identifier(&database.role.name);
    let message = format!(
        "refused to role {role}: {got}; run these as the owner, or run coherd setup --dsn with the owner's address"
    );
    let finding = Finding::error(Code::SETUP_REFUSED, step.subject.clone(), message);
    // The functions are a file of their own, too long for a screen.
    let long = |statement: &&String| statement.len() > 2000;
    match step.statements.iter().find(long) {
        Some(_) => finding.mend("coherd setup --print"),
        None => step.statements.iter().fold(finding, |finding, statement| finding.mend(statement.clone())),
    }
}

/// Runs statements in one go; takes back a transaction that broke off.
async fn execute(client: &Client, statements: &[String]) -> Result<(), String> {
    let Err(error) = client.batch_execute(&statements.join("\n")).await else { return Ok(()) };
    let _ = client.batch_execute("ROLLBACK").await;
    Err(crate::source::catalog::told(&error))
}

/// The report, for people.
pub fn render(report: &Report) -> String {
    let mut text: String = report.done.iter().flat_map(|subject| ["made: ", subject, "\n"]).collect();
    if report.done.is_empty() && report.findings.is_empty() {
        text.push_str("nothing to do: everything is there\n");
    }
    for finding in &report.findings {
        let _ = writeln!(text, "{finding}");
    }
    text
}

/// `coherd setup`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the SQL and change nothing
    #[arg(long)]
    print: bool,
    /// Create publication and functions as another role, the tables' owner: a libpq URI or key=value text
    #[arg(long, value_name = "DSN")]
    dsn: Option<String>,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

/// Makes what is missing, or prints it.
pub async fn run(config: &Config, args: Args) -> Result<(), Failure> {
    let stream = parts::dsn("source.dsn", &config.source.dsn)?;
    let own = stream.clone().named("coherd setup");
    let owner = match args.dsn {
        Some(text) => parts::dsn("--dsn", &text.into())?.named("coherd setup"),
        None => own.clone(),
    };
    let targets = parts::targets(config, Library::Leave)?;
    let client = connect(&owner).await.context("connecting to the database")?;
    let names: Vec<TableName> = config.rules.iter().map(|rule| rule.table.clone()).collect();
    let (slot, publication) = (&config.source.slot, &config.source.publication);
    let database = look(&client, slot, publication, &names).await.map_err(anyhow::Error::new)?;
    let plan = plan(&config.rules, &database);
    if args.print {
        return print_plan(config, &database, &plan);
    }
    // Under the name that the stream will have: a slot that nobody may follow is not made.
    let mut source = parts::postgres(config, stream);
    let mut seen = None;
    let create_slot = async || {
        replayed::publication(&own, publication).await?;
        let seen = seen.insert(source.look().await?);
        match seen.slot {
            SlotSeen::Missing => source.create_slot().await.map(Some),
            SlotSeen::Usable { .. } | SlotSeen::Lost { .. } => Ok(None),
        }
    };
    let mut report =
        carry_out(&client, &config.rules, &database, plan, create_slot).await.map_err(anyhow::Error::new)?;
    if let (Some(at), Some(seen)) = (report.slot, &seen) {
        report.findings.extend(first_record::write(config, &targets, at, seen).await);
    }
    if args.json {
        let findings = &report.findings;
        let slot = report.slot.map(|at| at.to_string());
        print(&format!("{}\n", serde_json::json!({ "made": report.done, "slot": slot, "findings": findings })))?;
    } else {
        print(&render(&report))?;
    }
    if report.failed() { Err(Failure::Told) } else { Ok(()) }
}

fn print_plan(config: &Config, database: &Database, plan: &Plan) -> Result<(), Failure> {
    let mut text: String = plan.statements().into_iter().map(|statement| statement + "\n").collect();
    if plan.slot {
        let slot = quote_literal(&database.slot_name);
        let failover = if database.server.version >= 170_000 { ", failover => true" } else { "" };
        let _ =
            writeln!(text, "SELECT pg_create_logical_replication_slot({}, 'pgoutput'{failover});", slot.trim_start());
    }
    print(&text)?;
    let mut findings = plan.findings.clone();
    findings.extend(left_after(&config.rules, database));
    for finding in &findings {
        eprintln!("{finding}");
    }
    if findings.iter().any(|finding| finding.severity > Severity::Warning) { Err(Failure::Told) } else { Ok(()) }
}

/// What the audit will find once the plan is carried out, as far as that can be told without doing it: everything but
/// what the plan mends.
fn left_after(rules: &[Rule], database: &Database) -> Vec<Finding> {
    let mut after = if database.publication.is_some() { database.clone() } else { with_publication(database) };
    for (name, rules) in by_table(rules) {
        let Some(table) = after.table(name).cloned() else { continue };
        let demand = Demand { database: &after, table: &table, rules: &rules };
        if table_statements(&demand).is_empty() {
            continue;
        }
        let columns = demand.column_list(&Identity::Keep);
        let published = Some(Published { columns, row_filter: false, by: PublishedBy::Table });
        for table in after.tables.iter_mut().filter(|table| table.name == *name) {
            table.published.clone_from(&published);
        }
    }
    audit(rules, &after)
}
