//! `coherd check`: reports every problem of the configuration, the database and the targets in one run.

use std::fmt::Write as _;

use secrecy::ExposeSecret as _;

use super::columns::plural;
use super::parts::{IdentityKind, choices};
use super::{Failure, parts, print};
use crate::config::Config;
use crate::postgres::catalog::{CatalogError, beside, clock, complete, look};
use crate::postgres::client::dsn::Dsn;
use crate::postgres::client::sql::connect;
use crate::postgres::survey::prerequisites::prerequisites;
use crate::postgres::survey::reach::Reached;
use crate::postgres::survey::{Look, PATIENCE, unreachable, way};
use crate::rules::audit::audit;
use crate::rules::audit::beside::audit as audit_beside;
use crate::rules::heirs::Heirs;
use crate::rules::overlap::{Destination, overlaps};
use crate::targets::config::Library;
use crate::targets::survey::shared;
use crate::targets::{OpenError, Surveying};
use crate::types::database::{Beside, Choices, Database};
use crate::types::finding::{Code, Finding, Severity};
use crate::types::server::Clock;
use crate::types::table::TableName;

/// The `application_name` of coherd's connections.
const APPLICATION_NAME: &str = "coherd check";

/// `coherd check`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
    /// Check only the configuration, its connection strings and its files, without network access
    #[arg(long)]
    config_only: bool,
    /// Replica identity to propose: full, or a UNIQUE constraint [default: whichever fits the table]
    #[arg(long, value_name = "KIND")]
    identity: Option<IdentityKind>,
}

/// Checks everything and prints the findings. Fails if an error or a question without an answer is among them.
pub async fn run(config: &Config, args: Args) -> Result<(), Failure> {
    if args.config_only {
        config_only(config)?;
        return print(if args.json { "{\"findings\":[],\"fine\":true}\n" } else { "the configuration is fine\n" });
    }
    let env = |name: &str| std::env::var(name).ok();
    let Source { mut findings, reached, .. } = source(config, choices(config, args.identity), &env).await;
    findings.extend(replicas(config, &env, reached.as_ref()).await);
    findings.extend(targets(parts::surveys(config)).await);
    findings.extend(records(config, reached.as_ref()).await);
    print(&if args.json { json(&findings) } else { text(&findings) })?;
    if fine(&findings) { Ok(()) } else { Err(Failure::Told) }
}

/// The checks that need no network.
fn config_only(config: &Config) -> Result<(), Failure> {
    parts::dsn("source.dsn", &config.source.dsn)?;
    parts::replicas(config)?;
    parts::targets(config, Library::Leave)?;
    Ok(())
}

/// Whether no finding is worse than a warning.
pub fn fine(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.severity <= Severity::Warning)
}

/// What [`source`] found.
#[derive(Debug, Default)]
pub struct Source {
    /// What is wrong with the database, and with the rules against its catalogue.
    pub findings: Vec<Finding>,
    /// The server that answers a replication connection.
    pub reached: Option<Reached>,
    /// Which tables inherit from the rules' tables.
    pub heirs: Heirs,
}

impl Source {
    fn failed(finding: Finding) -> Source {
        Source { findings: vec![finding], ..Source::default() }
    }
}

/// Checks the database, and the rules against its catalogue. `env` looks up environment variables.
pub async fn source(config: &Config, choices: Choices, env: &dyn Fn(&str) -> Option<String>) -> Source {
    let looked = tokio::time::timeout(PATIENCE, look_at_source(config, choices, env)).await;
    looked.unwrap_or_else(|_| {
        let message = format!("the database has not answered within {} s; is its address right?", PATIENCE.as_secs());
        Source::failed(Finding::unknown(Code::SOURCE_UNREACHABLE, "source", message))
    })
}

async fn look_at_source(config: &Config, choices: Choices, env: &dyn Fn(&str) -> Option<String>) -> Source {
    let only = Source::failed;
    let dsn = match Dsn::parse(config.source.dsn.expose_secret(), env) {
        Ok(dsn) => dsn,
        Err(error) => return only(Finding::error(Code::SOURCE_DSN, "source.dsn", error.to_string())),
    };
    let own = dsn.clone().named(APPLICATION_NAME);
    let client = match connect(&own).await {
        Ok(client) => client,
        Err(error) => return only(unreachable(&error)),
    };
    let (database, clock, beside) = match read(&client, config, choices).await {
        Ok(seen) => seen,
        Err(error) => return only(Finding::unknown(Code::SOURCE_UNREADABLE, "source", error.to_string())),
    };
    let look = Look {
        database: &database,
        clock,
        application_name: dsn.application_name(),
        wal_budget: config.source.wal_budget,
        libpq: dsn.libpq(),
    };
    let mut findings = prerequisites(&look);
    findings.extend(audit(&config.rules, &database));
    findings.extend(audit_beside(&database, &beside));
    let targets: Vec<Destination> =
        config.targets.iter().map(|target| Destination { name: &target.name, record: &target.record }).collect();
    findings.extend(overlaps(&config.rules, &targets, &database));
    let (way, reached) = way::replication(&look, &own).await;
    findings.extend(way);
    Source { findings, reached, heirs: Heirs::of(&database) }
}

async fn read(
    client: &tokio_postgres::Client,
    config: &Config,
    choices: Choices,
) -> Result<(Database, Clock, Beside), CatalogError> {
    let names: Vec<TableName> = config.rules.iter().map(|rule| rule.table.clone()).collect();
    let database = look(client, &config.source.slot, &config.source.publication, &names).await?;
    let mut database = Database { choices, ..database };
    complete(client, &mut database).await?;
    let (clock, beside) = (clock(client).await?, beside(client, &database).await?);
    Ok((database, clock, beside))
}

/// Checks every listed replica against `source`, the server that the source's connection reached.
async fn replicas(config: &Config, env: &dyn Fn(&str) -> Option<String>, source: Option<&Reached>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, text) in config.source.replicas.iter().enumerate() {
        let field = format!("source.replicas[{index}]");
        match Dsn::parse(text.expose_secret(), env) {
            Ok(dsn) => {
                let dsn = dsn.named(APPLICATION_NAME);
                findings.extend(way::replica(&dsn, format!("{field} {dsn}"), source).await);
            }
            Err(error) => findings.push(Finding::error(Code::SOURCE_DSN, field, error.to_string())),
        }
    }
    findings
}

/// Checks in parallel whose record each target has. [`targets`] reports a target that does not answer.
async fn records(config: &Config, reached: Option<&Reached>) -> Vec<Finding> {
    let system_id = reached.and_then(|reached| reached.life.system_id);
    let (Some(system_id), Ok(targets)) = (system_id, parts::targets(config, Library::Leave)) else { return Vec::new() };
    let mut looking = Vec::new();
    for (settings, target) in config.targets.iter().zip(targets) {
        let (name, record) = (settings.name.clone(), settings.record.clone());
        let (system_id, slot) = (system_id, config.source.slot.clone());
        looking.push(tokio::spawn(async move { shared(target.as_ref(), (&name, &record), (system_id, &slot)).await }));
    }
    let mut findings = Vec::new();
    for looking in looking {
        findings.extend(looking.await.ok().flatten());
    }
    findings
}

/// Checks every target in parallel. Each comes with its name from the configuration.
async fn targets(surveys: Vec<(&str, Result<Surveying, OpenError>)>) -> Vec<Finding> {
    let mut looking = Vec::new();
    for (name, survey) in surveys {
        let subject = format!("target {name}");
        looking.push(tokio::spawn(async move {
            let survey = match survey {
                Ok(survey) => survey,
                Err(error) => return vec![Finding::error(Code::TARGET_REFUSED, subject, error.to_string())],
            };
            tokio::time::timeout(PATIENCE, survey).await.unwrap_or_else(|_| {
                let message = format!("it has not answered within {} s; is its url right?", PATIENCE.as_secs());
                vec![Finding::unknown(Code::TARGET_UNREACHABLE, subject, message)]
            })
        }));
    }
    let mut findings = Vec::new();
    for looking in looking {
        // A survey that panicked has already printed the panic to stderr.
        let seen = looking.await;
        findings.extend(seen.unwrap_or_else(|error| {
            vec![Finding::unknown(Code::TARGET_UNREACHABLE, "targets", format!("the look at one broke off: {error}"))]
        }));
    }
    findings
}

/// The findings as text for people, the worst first.
pub fn text(findings: &[Finding]) -> String {
    let mut sorted: Vec<&Finding> = findings.iter().collect();
    sorted.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let mut text = String::new();
    for finding in sorted {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{finding}\n");
    }
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count() as u64;
    let [errors, unknown, warnings] = [Severity::Error, Severity::Unknown, Severity::Warning].map(count);
    let verdict = match (errors, unknown, warnings) {
        (0, 0, 0) => "everything is fine".to_owned(),
        (0, 0, warnings) => format!("fine, with {}", plural(warnings, "warning")),
        (errors, 0, warnings) => format!("{}, {}", plural(errors, "error"), plural(warnings, "warning")),
        (errors, unknown, warnings) => format!(
            "{}, {}, {} without an answer",
            plural(errors, "error"),
            plural(warnings, "warning"),
            plural(unknown, "question")
        ),
    };
    let _ = writeln!(text, "{verdict}");
    text
}

/// The findings as JSON, for programs.
pub fn json(findings: &[Finding]) -> String {
    format!("{}\n", serde_json::json!({ "fine": fine(findings), "findings": findings }))
}
