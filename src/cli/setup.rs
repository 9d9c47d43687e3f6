//! `coherd setup`: creates publication, functions and slot, in that order, without harming a writer.
//!
//! [`plan`] decides from what the catalogue shows, [`carry_out`] does it, and the audit then finds what is left.

use std::fmt::Write as _;

use anyhow::Context as _;
use tokio_postgres::Client;

mod first_record;
mod replayed;

use super::parts::{IdentityKind, choices};
use super::{Failure, parts, print};
use crate::config::Config;
use crate::postgres::catalog::{CatalogError, beside, look};
use crate::postgres::client::sql::connect;
use crate::postgres::survey::schema::{FUNCTIONS_COMMENT, FUNCTIONS_SUBJECT, no_operators, operating};
use crate::postgres::survey::slot::{of_others, slot_without_publication};
use crate::postgres::{SlotSeen, Source as _, SourceError};
use crate::rules::audit::beside::{audit as audit_beside, leave, named};
use crate::rules::audit::{audit, by_table};
use crate::rules::config::Rule;
use crate::rules::identity::Identity;
use crate::rules::publish::Demand;
use crate::targets::config::Library;
use crate::types::database::{Beside, Choices, Database, Operations, Publication, publication_comment};
use crate::types::finding::{Code, Finding, Severity};
use crate::types::lsn::Lsn;
use crate::types::table::{Persistence, Published, PublishedBy, TableKind, TableName, quote_identifier, quote_literal};

/// The functions for applications and DBAs.
pub const FUNCTIONS: &str = include_str!("../../sql/coherd.sql");

/// How long a statement may wait for a lock. None of these locks blocks a writer.
const LOCK_TIMEOUT: &str = "SET lock_timeout = '10s'";

/// What setup will do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Independent of each other, except that all may need the first.
    pub steps: Vec<Step>,
    /// Whether to create a slot, after everything else: a publication made after its slot breaks the stream.
    pub slot: bool,
    /// Why setup leaves something undone, if the audit does not report it.
    pub findings: Vec<Finding>,
}

/// Statements that belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What the step does.
    pub act: Act,
    /// The object that they concern: `publication coherd`.
    pub subject: String,
    /// In execution order.
    pub statements: Vec<String>,
}

/// What a step does, as the report says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Creates an object.
    Made,
    /// Changes a table's entry in the publication. A running coherd sees the change and flushes the table's rules once.
    Changed,
    /// Takes tables out of the publication.
    Removed,
}

impl Act {
    const fn word(self) -> &'static str {
        match self {
            Act::Made => "made",
            Act::Changed => "changed",
            Act::Removed => "removed",
        }
    }
}

impl Plan {
    fn step(&mut self, act: Act, subject: String, statements: Vec<String>) {
        if !statements.is_empty() {
            self.steps.push(Step { act, subject, statements });
        }
    }

    /// The statements of all steps.
    pub fn statements(&self) -> Vec<String> {
        self.steps.iter().flat_map(|step| step.statements.iter().cloned()).collect()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && !self.slot
    }
}

/// What [`carry_out`] did.
#[derive(Debug, Default)]
pub struct Report {
    /// Subjects of the completed steps.
    pub done: Vec<(Act, String)>,
    /// The position from which a newly created slot sends.
    pub slot: Option<Lsn>,
    /// Remaining problems.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether an error or a question without an answer is left.
    pub fn failed(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity > Severity::Warning)
    }
}

/// Plans what is missing, as SQL. It adds no table whose writes would then fail. It changes entries that already
/// satisfy their rules, and removes tables without rules, only if coherd made the publication and nobody else can be
/// reading it.
pub fn plan(rules: &[Rule], database: &Database, beside: &Beside) -> Plan {
    let mut plan = Plan::default();
    let publication = quote_identifier(&database.publication_name);
    if database.server.in_recovery {
        let message = "it is a standby, where nothing can be created; give the primary's address with --dsn";
        plan.findings.push(Finding::error(Code::SETUP_STANDBY, "source", message));
        return plan;
    }
    if let Some(finding) = of_others(database) {
        plan.findings.push(finding);
        return plan;
    }
    match (&database.publication, &database.slot) {
        (None, Some(slot)) => {
            plan.findings.push(slot_without_publication(database, slot));
            return plan;
        }
        (None, None) => plan.step(Act::Made, format!("publication {publication}"), create_publication(database)),
        (Some(_), _) => {}
    }
    let with_publication = if database.publication.is_some() { None } else { Some(with_publication(database)) };
    let database_then = with_publication.as_ref().unwrap_or(database);
    for (name, rules) in by_table(rules, database_then) {
        let Some(table) = database_then.table(name) else { continue };
        let act = if table.published.is_some() { Act::Changed } else { Act::Made };
        let statements = table_statements(&Demand { database: database_then, table, rules: &rules });
        plan.step(act, format!("table {name}"), statements);
    }
    if let (true, Some(statement)) = (database.owns_publication(), leave(database, beside)) {
        let tables = named(beside.unruled.iter().map(|(table, _)| table), beside.unruled_count);
        plan.step(Act::Removed, format!("from publication {publication}: {tables}"), vec![statement]);
    }
    if database.functions.as_deref() != Some(FUNCTIONS_COMMENT) {
        plan.step(Act::Made, FUNCTIONS_SUBJECT.to_owned(), vec![FUNCTIONS.trim_end().to_owned()]);
    }
    plan.slot = database.slot.is_none();
    plan
}

/// Grants the restricted functions to the role that coherd runs as, if that role exists.
fn grant(plan: &mut Plan, role: &str) {
    let Some(step) = plan.steps.iter_mut().find(|step| step.subject == FUNCTIONS_SUBJECT) else { return };
    step.statements.push(format!(
        "DO $$ BEGIN IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {}) THEN {} END IF; END $$;",
        quote_literal(role).trim_start(),
        operating(role).join(" ")
    ));
}

/// The comment tells a later setup that it may change the publication, and teardown that it may drop it.
fn create_publication(database: &Database) -> Vec<String> {
    let name = quote_identifier(&database.publication_name);
    // With REPLICA IDENTITY FULL, a generated column that is not published makes the application's UPDATEs fail.
    let generated = if has_generated(database) { ", publish_generated_columns = stored" } else { "" };
    let comment = quote_literal(&publication_comment(&database.slot_name));
    vec![
        format!("CREATE PUBLICATION {name} WITH (publish_via_partition_root = true{generated});"),
        format!("COMMENT ON PUBLICATION {name} IS {};", comment.trim_start()),
    ]
}

fn has_generated(database: &Database) -> bool {
    database.server.version >= 180_000
}

/// The database with an empty publication, as it will be after that step.
fn with_publication(database: &Database) -> Database {
    let operations = Operations { insert: true, update: true, delete: true, truncate: true };
    let publication = Publication {
        owned: true,
        made_here: true,
        all_tables: false,
        excepted: Vec::new(),
        holds_schemas: false,
        operations,
        via_root: true,
        generated: has_generated(database),
    };
    Database { publication: Some(publication), ..database.clone() }
}

/// Adds the table, or changes its entry. Returns nothing for a table that must be altered first: the audit has the
/// remedy.
fn table_statements(demand: &Demand) -> Vec<String> {
    // A user may have excluded it from FOR ALL TABLES on purpose; the audit has the statement.
    if !can_be_published(demand) || demand.is_excepted() {
        return Vec::new();
    }
    match &demand.table.published {
        None => demand.enter(),
        // A row filter is deliberate; the audit says what it hides.
        Some(held) if held.by != PublishedBy::Table || held.row_filter => Vec::new(),
        Some(held) if demand.database.owns_publication() || demand.entry_lacks(held) => demand.enter(),
        Some(_) => Vec::new(),
    }
}

fn can_be_published(demand: &Demand) -> bool {
    let table = demand.table;
    table.kind != TableKind::Unpublishable
        && table.persistence == Persistence::Permanent
        && table.partition_root.is_none()
        && table.has_identity()
        && (demand.can_be_full() || !table.forbids_column_list())
}

/// Runs each step of `plan` on its own, then looks again. `create_slot` runs last, and only if nothing that the slot
/// depends on has failed. It may run as another role than `client`. It returns `None` if another session has made the
/// slot meanwhile.
///
/// `Report::slot` is where the slot's memory begins. The first record of each target starts there.
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
            Ok(()) => report.done.push((step.act, step.subject)),
            Err(got) => {
                let needed_by_all = step.subject.starts_with("publication");
                report.findings.push(refused(&step, &got, database));
                failed = needed_by_all.then_some(got);
            }
        }
    }
    let (after, beside) =
        look_at(client, &database.slot_name, &database.publication_name, rules, database.choices).await?;
    if plan.slot && after.publication.is_some() {
        match create_slot().await {
            Ok(None) => {}
            Ok(at @ Some(_)) => {
                report.slot = at;
                report.done.push((Act::Made, format!("slot {}", quote_identifier(&database.slot_name))));
            }
            Err(error) => report.findings.push(Finding::error(Code::SETUP_REFUSED, "source", error.to_string())),
        }
    }
    // After a failed step, "run coherd setup" would be useless advice.
    let hindered = !report.findings.is_empty();
    if after.functions.is_some() && !after.operators {
        report.findings.push(no_operators());
    }
    let audited = audit(rules, &after).into_iter().chain(audit_beside(&after, &beside));
    report.findings.extend(audited.filter(|finding| !hindered || finding.remedy != ["coherd setup"]));
    Ok(report)
}

fn refused(step: &Step, got: &str, database: &Database) -> Finding {
    let role = quote_identifier(&database.role.name);
    let message = format!(
        "refused to role {role}: {got}; run these as the owner, or run coherd setup --dsn with the owner's address"
    );
    let finding = Finding::error(Code::SETUP_REFUSED, step.subject.clone(), message);
    // The functions are a whole file, too long for a screen.
    let long = |statement: &&String| statement.len() > 2000;
    match step.statements.iter().find(long) {
        Some(_) => finding.remedy("coherd setup --print"),
        None => step.statements.iter().fold(finding, |finding, statement| finding.remedy(statement.clone())),
    }
}

/// Runs statements in one batch. Rolls back if one fails.
async fn execute(client: &Client, statements: &[String]) -> Result<(), String> {
    let Err(error) = client.batch_execute(&statements.join("\n")).await else { return Ok(()) };
    let _ = client.batch_execute("ROLLBACK").await;
    Err(crate::postgres::catalog::told(&error))
}

/// The report as text, for people.
pub fn render(report: &Report) -> String {
    let mut text = String::new();
    for (act, subject) in &report.done {
        let _ = writeln!(text, "{}: {subject}", act.word());
    }
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
    /// Create the publication and functions as the tables' owner: a libpq URI or key=value string
    #[arg(long, value_name = "DSN")]
    dsn: Option<String>,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
    /// Replica identity to propose: full, or a UNIQUE constraint [default: whichever fits the table]
    #[arg(long, value_name = "KIND")]
    identity: Option<IdentityKind>,
}

/// The input of the plan and the audit.
async fn look_at(
    client: &Client,
    slot: &str,
    publication: &str,
    rules: &[Rule],
    choices: Choices,
) -> Result<(Database, Beside), CatalogError> {
    let names: Vec<TableName> = rules.iter().map(|rule| rule.table.clone()).collect();
    let database = Database { choices, ..look(client, slot, publication, &names).await? };
    let beside = beside(client, &database).await?;
    Ok((database, beside))
}

/// Creates what is missing, or prints it.
pub async fn run(config: &Config, args: Args) -> Result<(), Failure> {
    Box::pin(parts::until_signal(make(config, args))).await
}

async fn make(config: &Config, args: Args) -> Result<(), Failure> {
    let stream = parts::dsn("source.dsn", &config.source.dsn)?;
    let own = stream.clone().named("coherd setup");
    let owner = match args.dsn {
        Some(text) => parts::dsn("--dsn", &text.into())?.named("coherd setup"),
        None => own.clone(),
    };
    let targets = parts::targets(config, Library::Leave)?;
    let client = connect(&owner).await.context("connecting to the database")?;
    let (slot, publication) = (&config.source.slot, &config.source.publication);
    let looked = look_at(&client, slot, publication, &config.rules, choices(config, args.identity)).await;
    let (database, beside) = looked.map_err(anyhow::Error::new)?;
    let mut plan = plan(&config.rules, &database, &beside);
    if stream.user() != database.role.name {
        grant(&mut plan, stream.user());
    }
    if args.print {
        return print_plan(config, &database, &beside, &plan);
    }
    // Uses the stream's name and role: setup must not make a slot that coherd may not follow.
    let mut source = parts::postgres(config, stream, parts::tell);
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
        let of =
            |wanted| report.done.iter().filter(move |(act, _)| *act == wanted).map(|(_, subject)| subject.as_str());
        let [made, changed, removed] = [Act::Made, Act::Changed, Act::Removed].map(|act| of(act).collect::<Vec<_>>());
        let report = serde_json::json!({
            "made": made, "changed": changed, "removed": removed, "slot": slot, "findings": findings
        });
        print(&format!("{report}\n"))?;
    } else {
        print(&render(&report))?;
    }
    if report.failed() { Err(Failure::Told) } else { Ok(()) }
}

fn print_plan(config: &Config, database: &Database, beside: &Beside, plan: &Plan) -> Result<(), Failure> {
    let mut text: String = plan.statements().into_iter().map(|statement| statement + "\n").collect();
    if plan.slot {
        let slot = quote_literal(&database.slot_name);
        let failover = if database.server.version >= 170_000 { ", failover => true" } else { "" };
        let _ = writeln!(
            text,
            "SELECT pg_catalog.pg_create_logical_replication_slot({}, 'pgoutput'{failover});",
            slot.trim_start()
        );
    }
    print(&text)?;
    let mut findings = plan.findings.clone();
    findings.extend(left_after(&config.rules, database, beside));
    for finding in &findings {
        eprintln!("{finding}");
    }
    if findings.iter().any(|finding| finding.severity > Severity::Warning) { Err(Failure::Told) } else { Ok(()) }
}

/// What the audit will find after the plan, as far as that is known without running it: everything that the plan does
/// not fix.
fn left_after(rules: &[Rule], database: &Database, beside: &Beside) -> Vec<Finding> {
    let mut after = if database.publication.is_some() { database.clone() } else { with_publication(database) };
    for (name, rules) in by_table(rules, database) {
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
    let mut beside = beside.clone();
    if database.owns_publication() {
        beside.unruled.clear();
    }
    let mut findings = audit(rules, &after);
    findings.extend(audit_beside(&after, &beside));
    findings
}
