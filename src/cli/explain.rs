//! `coherd explain`: which rules make a key, from which rows, and what would leave it stale.

use std::fmt::Write as _;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::cached::{self, COUNTING, key_text};
use super::columns::plain;
use super::found::{Cause, Found};
use super::{Failure, parts, print};
use crate::config::{Config, ManualKeys};
use crate::postgres::catalog::look;
use crate::postgres::client::sql::connect;
use crate::rules::audit::audit;
use crate::rules::config::{MissingOld, Rule};
use crate::rules::filter::Use;
use crate::rules::named::Cover;
use crate::rules::reading::{Implied, can_print, read};
use crate::rules::template::{Placeholder, Template};
use crate::rules::text_form::text_form;
use crate::transaction::tables_of;
use crate::types::database::Database;
use crate::types::finding::Severity;
use crate::types::invalidation::Action;
use crate::types::table::{Table, quote_identifier, quote_literal};

/// `coherd explain`
#[derive(Debug, clap::Args)]
#[command(after_help = "Fails (1) where no rule makes the key: then no change in Postgres removes it.")]
pub struct Args {
    /// The key, as it is in the cache
    #[arg(value_name = "KEY")]
    key: String,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

/// One template that makes the key.
struct Maker<'a> {
    rule: &'a Rule,
    template: &'a Template,
    implied: Vec<Implied>,
}

/// Whether the catalogue allows a rule to be covered.
enum Standing {
    Covered,
    /// Why it is not covered, and what fixes it.
    Uncovered(Vec<String>),
    /// Why this is not known.
    Unknown(String),
}

/// Explains the key and prints the result.
pub async fn run(config: &Config, args: Args) -> Result<(), Failure> {
    let key = args.key.as_bytes();
    let database = catalogue(config).await;
    let mut makers = makers(&config.rules, key);
    makers.retain(|maker| maker.has_rows(&database));
    let mut found = Found::at_most(usize::MAX);
    found.key(None, Action::Delete, key, Cause::Row);
    for maker in makers.iter().filter(|maker| maker.rule.action == Action::Bump) {
        found.key(Some(maker.rule.id), Action::Bump, key, Cause::Row);
    }
    let cached = cached::look(config, &found, COUNTING).await?;
    let flushed: Vec<String> = config.rules.iter().filter(|rule| flushes(rule, key)).map(Rule::subject).collect();
    if args.json {
        let rules: Vec<Value> = makers.iter().map(|maker| maker.json(config, &database)).collect();
        let mut told = cached::json(config, &found, &cached);
        told.retain(|name, _| matches!(name.as_str(), "keys" | "faults"));
        told.insert("key".to_owned(), args.key.clone().into());
        told.insert("rules".to_owned(), rules.into());
        told.insert("flushed_by".to_owned(), flushed.into());
        print(&format!("{}\n", Value::Object(told)))?;
    } else {
        let mut text = String::new();
        for maker in &makers {
            text += &maker.text(config, &database);
        }
        if makers.is_empty() {
            text += &unmade(&args.key, &flushed, config);
        }
        print(&format!("{text}{}", cached::text(config, &found, &cached)))?;
    }
    cached::all_answered(&cached)?;
    match database {
        Err(error) if !makers.is_empty() => Err(error.context("whether the rules are covered is not known").into()),
        _ if makers.is_empty() => Err(Failure::Told),
        _ => Ok(()),
    }
}

async fn catalogue(config: &Config) -> anyhow::Result<Database> {
    let dsn = parts::dsn("source.dsn", &config.source.dsn);
    let dsn = dsn.map_err(|failure| match failure {
        Failure::Setting(text) => anyhow::Error::msg(text),
        Failure::Failed(error) => error,
        Failure::Config(_) | Failure::Told => anyhow::anyhow!("source.dsn cannot be read"),
    })?;
    let client = connect(&dsn.named("coherd explain")).await.context("connecting to the database")?;
    let (slot, publication) = (&config.source.slot, &config.source.publication);
    let database = look(&client, slot, publication, &tables_of(&config.rules)).await?;
    Ok(Database { choices: parts::choices(config, None), ..database })
}

fn makers<'a>(rules: &'a [Rule], key: &[u8]) -> Vec<Maker<'a>> {
    let of_rule = |rule: &'a Rule| {
        let one = move |template| Some(Maker { rule, template, implied: read(template, key)? });
        rule.keys.iter().filter_map(one).collect::<Vec<_>>()
    };
    rules.iter().flat_map(of_rule).collect()
}

fn flushes(rule: &Rule, key: &[u8]) -> bool {
    rule.scopes.iter().any(|scope| scope.keys.covers(key))
}

fn unmade(key: &str, flushed: &[String], config: &Config) -> String {
    let also = match flushed {
        [] => String::new(),
        rules => format!(" Only a flush of {} covers it, as after TRUNCATE or a gap.", rules.join(", ")),
    };
    let quoted = key.replace('\'', "'\\''");
    let is_ignored = config.manual_keys == ManualKeys::Rules
        && Cover::new(&config.rules).rules(&config.rules, key.as_bytes()).next().is_none();
    let condition = if is_ignored { ", once manual.keys is any" } else { "" };
    let literal = if super::invalidate::is_glob(key) { "--literal " } else { "" };
    format!(
        "no rule makes {}: no change in Postgres removes it.{also}\nBy hand{condition}: coherd invalidate {literal}'{}'\n\n",
        plain(key),
        plain(&quoted)
    )
}

impl Maker<'_> {
    /// Whether the columns' types can print the values that the key implies.
    fn has_rows(&self, database: &anyhow::Result<Database>) -> bool {
        let Some(table) = self.table(database) else { return true };
        let whole = |implied: &&Implied| implied.placeholder.is_plain() && !implied.ambiguous;
        self.implied.iter().filter(whole).all(|implied| {
            table.column(&implied.placeholder.column).is_none_or(|column| can_print(&column.type_name, &implied.text))
        })
    }

    fn standing(&self, database: &anyhow::Result<Database>) -> Standing {
        let database = match database {
            Ok(database) => database,
            Err(error) => return Standing::Unknown(format!("{error:#}")),
        };
        let mut findings = audit(std::slice::from_ref(self.rule), database);
        findings.retain(|finding| finding.severity == Severity::Error);
        if findings.is_empty() {
            Standing::Covered
        } else {
            Standing::Uncovered(findings.iter().map(ToString::to_string).collect())
        }
    }

    /// A SQL condition for the rows that have the key. `None` if SQL cannot express it, or if the key is ambiguous.
    fn condition(&self, database: &anyhow::Result<Database>) -> Option<String> {
        let one = |implied: &Implied| {
            let Placeholder { column, path, each, filters } = &implied.placeholder;
            if !path.is_empty() || *each {
                return None;
            }
            let mut value = quote_identifier(column);
            match self.type_name(column, database).map(|name| name.split('(').next().unwrap_or(name)) {
                Some("json" | "xml" | "point" | "box" | "lseg" | "path" | "polygon" | "circle" | "line") => {
                    value = format!("format('%s', {value})"); // These types have no `=` that compares the whole value.
                }
                _ if filters.is_empty() => {}
                None | Some("text" | "character varying") => value += "::text",
                // For some types a cast prints another text than keys have: true, not t.
                Some(_) => value = format!("format('%s', {value})"),
            }
            for filter in filters {
                let function = match filter.filter.name {
                    "trim" => "btrim",
                    same @ ("lower" | "upper" | "md5") => same,
                    _ => return None,
                };
                value = format!("{function}({value})");
            }
            let text = std::str::from_utf8(&implied.text).ok().filter(|_| !implied.ambiguous)?;
            Some(format!("{value} = {}", quote_literal(text).trim_start()))
        };
        let conditions = self.implied.iter().map(one).collect::<Option<Vec<_>>>()?;
        (!conditions.is_empty()).then(|| conditions.join(" AND "))
    }

    fn type_name<'d>(&self, column: &str, database: &'d anyhow::Result<Database>) -> Option<&'d str> {
        Some(self.table(database)?.column(column)?.type_name.as_str())
    }

    fn table<'d>(&self, database: &'d anyhow::Result<Database>) -> Option<&'d Table> {
        database.as_ref().ok()?.table(&self.rule.table)
    }

    /// Reasons why the key can stay although a user may expect it to go.
    fn caveats(&self, config: &Config, database: &anyhow::Result<Database>) -> Vec<String> {
        let (rule, mut reasons) = (self.rule, Vec::new());
        let table = self.table(database);
        let listed = |names: &[&str]| names.iter().map(|name| quote_identifier(name)).collect::<Vec<_>>().join(", ");
        let named: Vec<&str> = self.template.columns().collect();
        let is = |name: &&str, what: fn(&crate::types::table::TableColumn) -> bool| {
            table.and_then(|table| table.column(name)).is_some_and(what)
        };
        let unlogged: Vec<&str> = named.iter().copied().filter(|name| is(name, |column| !column.in_identity)).collect();
        if !unlogged.is_empty() && rule.on_missing_old == MissingOld::Skip {
            reasons.push(format!(
                "a DELETE, or an UPDATE of {}, leaves the key of the old row: its value is not in the log (on_missing_old: \
                 skip)",
                listed(&unlogged)
            ));
        } else if !unlogged.is_empty() && rule.on_missing_old == MissingOld::Flush {
            reasons.push(format!(
                "each DELETE, and each UPDATE of {}, flushes all of {} (on_missing_old: flush)",
                listed(&unlogged),
                rule.scopes.iter().map(|scope| scope.keys.to_string()).collect::<Vec<_>>().join(", ")
            ));
        }
        if let Some(condition) = &rule.condition {
            reasons.push(format!(
                "a row for which {condition} is certainly not true, before and after a change, does not count (where)"
            ));
        }
        if !rule.when_changed.is_empty() {
            let columns = rule.columns();
            reasons.push(format!("an UPDATE that changes none of {} is ignored (when_changed)", listed(&columns)));
        }
        let keyless = |its: &&Placeholder| its.filters.iter().all(|filter| filter.for_null().is_none());
        let needed = self.template.placeholders().filter(keyless).map(|its| its.column.as_str());
        let nullable: Vec<&str> = needed.filter(|name| is(name, |column| !column.not_null)).collect();
        if !nullable.is_empty() {
            reasons.push(format!("a row in which {} is NULL has no such key", listed(&nullable)));
        }
        let silent: Vec<&str> = (0..)
            .zip(&config.targets)
            .filter(|(target, _)| !rule.targets.contains(target))
            .map(|(_, target)| target.name.as_str())
            .collect();
        if !silent.is_empty() {
            reasons.push(format!("the rule does not invalidate the key in {} (targets)", silent.join(", ")));
        }
        match rule.action {
            Action::Delete => {}
            Action::Bump => reasons.push(
                "the rule moves the version pointer and removes nothing: a reader whose key does not contain the \
                 version gets an old value (action: bump)"
                    .to_owned(),
            ),
            Action::Publish => reasons.push(
                "the rule publishes the key on a channel and removes nothing: subscribers do that (action: publish)"
                    .to_owned(),
            ),
        }
        reasons.push(format!(
            "a value that also depends on tables other than {} goes stale when those change, unless rules for them \
             make the key",
            rule.table
        ));
        reasons
    }

    fn targets<'c>(&self, config: &'c Config) -> Vec<&'c str> {
        let name = |target: &usize| config.targets.get(*target).map(|target| target.name.as_str());
        self.rule.targets.iter().filter_map(name).collect()
    }

    fn text(&self, config: &Config, database: &anyhow::Result<Database>) -> String {
        let rule = self.rule;
        let mut out = String::new();
        let mut line = |name: &str, text: &str| {
            for (number, text) in text.lines().enumerate() {
                // Writing to a String cannot fail.
                let _ = writeln!(out, "  {:<9} {}", if number == 0 { name } else { "" }, plain(text));
            }
        };
        line(
            "template",
            &format!("{}, {} in {}", self.template.text(), rule.action.name(), self.targets(config).join(", ")),
        );
        for implied in &self.implied {
            let column = implied.placeholder.written();
            let sure = if implied.ambiguous { ", or a longer or shorter text" } else { "" };
            let its_type = self.type_name(&implied.placeholder.column, database);
            let form = its_type.and_then(text_form).map(|form| format!(", in keys {form}")).unwrap_or_default();
            let its_type = its_type.map(|name| format!(" ({name}{form})")).unwrap_or_default();
            line("column", &format!("{column} is {}{sure}{its_type}", key_text(&implied.text)));
        }
        match self.condition(database) {
            Some(condition) => line("rows", &condition),
            None if self.template.columns().next().is_none() => line("rows", "every row of the table"),
            None => line("rows", "which ones cannot be said in SQL"),
        }
        match self.standing(database) {
            Standing::Covered => line("covered", "yes"),
            Standing::Uncovered(findings) => line("covered", &format!("NO\n{}", findings.join("\n"))),
            Standing::Unknown(why) => line("covered", &format!("not known: {why}")),
        }
        for (number, reason) in self.caveats(config, database).iter().enumerate() {
            line(if number == 0 { "caveats" } else { "" }, reason);
        }
        format!("{}\n{out}\n", rule.subject())
    }

    fn json(&self, config: &Config, database: &anyhow::Result<Database>) -> Value {
        let (covered, findings) = match self.standing(database) {
            Standing::Covered => (Value::from(true), Vec::new()),
            Standing::Uncovered(findings) => (Value::from(false), findings),
            Standing::Unknown(why) => (Value::Null, vec![why]),
        };
        let implied = self.implied.iter().map(|its| {
            let its_type = self.type_name(&its.placeholder.column, database);
            json!({
                "placeholder": its.placeholder.written(), "column": its.placeholder.column, "type": its_type,
                "text_form": its_type.and_then(text_form),
                "filters": its.placeholder.filters.iter().map(Use::written).collect::<Vec<_>>(),
                "text": key_text(&its.text), "ambiguous": its.ambiguous,
            })
        });
        json!({
            "rule": self.rule.subject(), "table": self.rule.table.sql(), "template": self.template.text(),
            "action": self.rule.action.name(), "targets": self.targets(config),
            "columns": implied.collect::<Vec<_>>(), "rows": self.condition(database), "covered": covered, "findings": findings,
            "caveats": self.caveats(config, database),
        })
    }
}
