//! `coherd check`: everything that stands in the way, all at once.

pub mod prerequisites;

use std::fmt::Write as _;
use std::time::Duration;

use secrecy::ExposeSecret as _;

use super::{Failure, parts, print};
use crate::config::Config;
use crate::finding::{Finding, Severity};
use crate::rules::audit::audit;
use crate::source::SourceError;
use crate::source::catalog::look;
use crate::source::dsn::Dsn;
use crate::source::sql::connect;
use crate::table::TableName;
use crate::target::Target;
use crate::target::config::Library;

/// How long the database, or a target, may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// `coherd check`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
    /// Look at the configuration only; neither the database nor a target is asked
    #[arg(long)]
    config_only: bool,
}

/// Checks, prints, and fails where an error is left or a question has no answer.
pub async fn run(config: &Config, args: Args) -> Result<(), Failure> {
    let caches = parts::targets(config, Library::Leave)?;
    if args.config_only {
        parts::dsn("source.dsn", &config.source.dsn)?;
        parts::replicas(config)?;
        return Ok(());
    }
    let mut findings = source(config, &|name| std::env::var(name).ok()).await;
    let names = config.targets.iter().map(|target| target.name.as_str());
    findings.extend(targets(names.zip(caches.iter().map(AsRef::as_ref))).await);
    print(&if args.json { json(&findings) } else { text(&findings) })?;
    if fine(&findings) { Ok(()) } else { Err(Failure::Told) }
}

/// Whether warnings are all there is.
pub fn fine(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.severity == Severity::Warning)
}

/// The database, and the rules against it. `env` gives environment variables.
pub async fn source(config: &Config, env: &dyn Fn(&str) -> Option<String>) -> Vec<Finding> {
    match tokio::time::timeout(PATIENCE, look_at_source(config, env)).await {
        Ok(findings) => findings,
        Err(_) => vec![Finding::unknown(
            "source",
            format!("the database has not answered within {} s; is its address right?", PATIENCE.as_secs()),
        )],
    }
}

async fn look_at_source(config: &Config, env: &dyn Fn(&str) -> Option<String>) -> Vec<Finding> {
    let dsn = match Dsn::parse(config.source.dsn.expose_secret(), env) {
        Ok(dsn) => dsn,
        Err(error) => return vec![Finding::error("source.dsn", error.to_string())],
    };
    let client = match connect(&dsn.clone().named("coherd check")).await {
        Ok(client) => client,
        Err(error) => return vec![unreachable(&error)],
    };
    let names: Vec<TableName> = config.rules.iter().map(|rule| rule.table.clone()).collect();
    match look(&client, &config.source.slot, &config.source.publication, &names).await {
        Ok(database) => {
            let mut findings = prerequisites::prerequisites(&database, dsn.application_name());
            findings.extend(audit(&config.rules, &database));
            findings
        }
        Err(error) => vec![Finding::unknown("source", error.to_string())],
    }
}

fn unreachable(error: &SourceError) -> Finding {
    match error {
        SourceError::Refused(_) | SourceError::Synchronous(_) => Finding::error("source", error.to_string()),
        SourceError::Lost(_) | SourceError::Busy(_) | SourceError::Gap(_) | SourceError::Protocol(_) => {
            Finding::unknown("source", format!("no rule was looked at, because the database cannot be asked: {error}"))
        }
    }
}

/// Asks each target for its record: `name` is what configuration calls it.
pub async fn targets<'a>(targets: impl IntoIterator<Item = (&'a str, &'a dyn Target)>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, target) in targets {
        let subject = format!("target {name}");
        match tokio::time::timeout(PATIENCE, target.recall()).await {
            Ok(Ok(_)) => {}
            Ok(Err(fault)) if fault.kind.passes_by_itself() => {
                findings.push(Finding::unknown(subject, fault.to_string()));
            }
            Ok(Err(fault)) => findings.push(Finding::error(subject, fault.to_string())),
            Err(_) => findings.push(Finding::unknown(
                subject,
                format!("it has not answered within {} s; is its url right?", PATIENCE.as_secs()),
            )),
        }
    }
    findings
}

/// For people: the worst first.
pub fn text(findings: &[Finding]) -> String {
    let mut sorted: Vec<&Finding> = findings.iter().collect();
    sorted.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let mut text = String::new();
    for finding in sorted {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{finding}\n");
    }
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
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

fn plural(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// For programs.
pub fn json(findings: &[Finding]) -> String {
    format!("{}\n", serde_json::json!({ "fine": fine(findings), "findings": findings }))
}
