//! Rules as the configuration writes them ([`RawRule`]) and as the rest of the program reads them ([`Rule`]).

use std::collections::HashSet;

use serde::Deserialize;

use super::cover::cover;
use super::filter;
use super::name::{parse_column, parse_table};
use super::predicate::{self, Predicate};
use super::shape::Shape;
use super::template::{Context, Template, Vars};
use crate::types::invalidation::{Action, RuleId, Scope};
use crate::types::pattern::{Extent, Pattern};
use crate::types::table::TableName;

/// One entry of `rules:`, as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawRule {
    /// What metrics, the status and logs call it in place of its number.
    pub name: Option<String>,
    /// `schema.table`.
    pub table: String,
    /// Key templates.
    pub keys: Vec<String>,
    /// A condition over the old or the new row, in a subset of SQL.
    #[serde(rename = "where")]
    pub condition: Option<String>,
    /// Names that templates can use, each with the values that it stands for.
    #[serde(default)]
    pub vars: Vars,
    /// Hashes what follows the literal text at the beginning of each template.
    pub hash: Option<RawHash>,
    /// What happens to the keys.
    #[serde(default)]
    pub action: RawAction,
    /// Columns to watch: coherd ignores an UPDATE that changes neither them nor the keys' columns.
    #[serde(default)]
    pub when_changed: Vec<String>,
    /// Names of targets; all targets if left out.
    pub targets: Option<Vec<String>>,
    /// What to do if a key of the old row cannot be known.
    #[serde(default)]
    pub on_missing_old: MissingOld,
    /// The glob to flush instead of the templates' own scopes.
    pub scope: Option<String>,
}

impl RawRule {
    /// A rule with only the required fields; the others have the configuration's defaults.
    pub fn of(table: &str, keys: &[&str]) -> Self {
        Self {
            name: None,
            table: table.to_owned(),
            keys: keys.iter().map(|&key| key.to_owned()).collect(),
            condition: None,
            vars: Vars::new(),
            hash: None,
            action: RawAction::default(),
            when_changed: Vec::new(),
            targets: None,
            on_missing_old: MissingOld::default(),
            scope: None,
        }
    }
}

/// `action:`, as written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RawAction {
    /// Remove the key.
    #[default]
    Delete,
    /// Increment its version pointer.
    Bump,
    /// Publish its name on a channel.
    Publish,
}

/// `hash:`, as written: a filter's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RawHash {
    /// 32 hexadecimal digits.
    Md5,
    /// 40 hexadecimal digits.
    Sha1,
    /// 64 hexadecimal digits.
    Sha256,
}

impl RawHash {
    fn name(self) -> &'static str {
        match self {
            RawHash::Md5 => "md5",
            RawHash::Sha1 => "sha1",
            RawHash::Sha256 => "sha256",
        }
    }
}

/// `on_missing_old:`: what to do if a placeholder's column is outside the replica identity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MissingOld {
    /// Refuse to start, and report the SQL that fixes it.
    #[default]
    Refuse,
    /// Flush the scope each time the old key is unknown.
    Flush,
    /// Knowingly leave the old row's key alone.
    Skip,
}

/// A valid rule.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Its place in the configuration.
    pub id: RuleId,
    /// Its name, which no other rule has.
    pub name: Option<String>,
    /// The table, or the root of a partition tree.
    pub table: TableName,
    /// Key templates, at least one.
    pub keys: Vec<Template>,
    /// A condition over the old or the new row.
    pub predicate: Option<Predicate<String>>,
    /// The condition as it was written.
    pub condition: Option<String>,
    /// Hashes what follows the literal text at the beginning of each template.
    pub hash: Option<RawHash>,
    /// What happens to the keys.
    pub action: Action,
    /// Unquoted column names; empty if any change counts.
    pub when_changed: Vec<String>,
    /// What to do if a key of the old row cannot be known.
    pub on_missing_old: MissingOld,
    /// Indexes of the targets it goes to, ascending.
    pub targets: Vec<usize>,
    /// What a flush covers: one scope per template, or only the one that the configuration gives.
    pub scopes: Vec<Scope>,
}

impl Rule {
    /// The scope of template number `template`.
    pub fn scope(&self, template: usize) -> Option<&Scope> {
        self.scopes.get(template).or_else(|| self.scopes.first())
    }

    /// `rules[2] public.users`, or `rules[profiles] public.users` if it has a name, for findings, logs and metrics.
    pub fn subject(&self) -> String {
        match &self.name {
            Some(name) => format!("rules[{name}] {}", self.table),
            None => format!("rules[{}] {}", self.id.0, self.table),
        }
    }

    /// Everything that decides which keys the rule invalidates, as text.
    pub fn signature(&self) -> String {
        let Rule { table, action, when_changed, on_missing_old, .. } = self;
        let keys = self.keys.iter().map(|key| format!("{}\n", key.text()));
        let scopes = self.scopes.iter().map(|scope| format!("{}\n", scope.keys));
        let condition = self.condition.iter().map(|condition| format!("where {condition}\n"));
        let hash = self.hash.iter().map(|hash| format!("hash {hash:?}\n"));
        std::iter::once(format!("{table}\n{action:?} {when_changed:?} {on_missing_old:?}\n"))
            .chain(keys)
            .chain(scopes)
            .chain(condition)
            .chain(hash)
            .collect()
    }

    /// Every column that the rule reads, unquoted and once: those of placeholders, of `where` and of `when_changed`.
    pub fn columns(&self) -> Vec<&str> {
        let mut columns: Vec<&str> = Vec::new();
        let named = self.keys.iter().flat_map(Template::columns).chain(self.when_changed.iter().map(String::as_str));
        for column in named.chain(self.predicate.iter().flat_map(Predicate::columns)) {
            if !columns.contains(&column) {
                columns.push(column);
            }
        }
        columns
    }
}

/// What is wrong with a rule: the field below `rules[n]`, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rules[{index}].{field}: {reason}")]
pub struct RuleError {
    /// Place in `rules:`.
    pub index: usize,
    /// Field name.
    pub field: &'static str,
    /// What was found and what to write instead.
    pub reason: String,
}

/// The most rules that one configuration may hold.
pub const RULES_MAX: usize = 10_000;

/// Resolves every rule, or returns all errors at once. `targets` are the targets' names, in the order of the
/// configuration.
pub fn resolve(raw: &[RawRule], targets: &[String]) -> Result<Vec<Rule>, Vec<RuleError>> {
    let mut errors = Vec::new();
    let mut rules = Vec::new();
    let mut names = HashSet::new();
    for (index, raw) in raw.iter().enumerate() {
        match resolve_one(index, raw, targets) {
            Ok(Rule { name: Some(name), .. }) if !names.insert(name.clone()) => {
                let reason = format!("another rule is called {name:?} too; metrics and logs could not tell them apart");
                errors.push(RuleError { index, field: "name", reason });
            }
            Ok(rule) => rules.push(rule),
            Err((field, reason)) => errors.push(RuleError { index, field, reason }),
        }
    }
    if errors.is_empty() { Ok(rules) } else { Err(errors) }
}

fn resolve_one(index: usize, raw: &RawRule, targets: &[String]) -> Result<Rule, (&'static str, String)> {
    let id = u16::try_from(index).ok().filter(|_| index < RULES_MAX);
    let id = RuleId(id.ok_or(("table", format!("more than {RULES_MAX} rules; merge some, or run a second daemon")))?);
    let name = raw.name.as_deref().map(rule_name).transpose().map_err(|reason| ("name", reason))?;
    let table = parse_table(&raw.table).map_err(|reason| ("table", reason))?;
    if raw.keys.is_empty() {
        return Err(("keys", "it is empty; give at least one key template, e.g. [\"user:{id}\"]".to_owned()));
    }
    let hasher = raw.hash.and_then(|hash| filter::find(hash.name())).map(|hash| hash.prepare(None));
    let hasher = hasher.transpose().map_err(|reason| ("hash", reason))?;
    let vars = vars(&raw.vars, &raw.keys)?;
    let context = Context { table: &table, vars: &vars, hash: hasher.as_ref() };
    let keys: Result<Vec<_>, _> = raw.keys.iter().map(|text| Template::parse_each(text, &context)).collect();
    let keys = keys.map_err(|error| ("keys", error.to_string()))?.concat();
    let predicate = raw.condition.as_deref().map(predicate::parse).transpose();
    let predicate = predicate.map_err(|error| ("where", error.to_string()))?;
    let action = match raw.action {
        RawAction::Delete => Action::Delete,
        RawAction::Bump => Action::Bump,
        RawAction::Publish => Action::Publish,
    };
    let columns: Result<Vec<_>, _> = raw.when_changed.iter().map(|column| parse_column(column)).collect();
    let when_changed = columns.map_err(|reason| ("when_changed", reason))?;
    let targets = places(raw.targets.as_deref(), targets)?;
    let scopes = scopes(raw.scope.as_deref(), &keys, action)?;
    let condition = raw.condition.clone();
    Ok(Rule {
        id,
        name,
        table,
        keys,
        predicate,
        condition,
        hash: raw.hash,
        action,
        when_changed,
        on_missing_old: raw.on_missing_old,
        targets,
        scopes,
    })
}

/// The longest name of a rule, in bytes; that of an identifier in Postgres.
const NAME_BYTES_MAX: usize = 63;

fn rule_name(text: &str) -> Result<String, String> {
    let is_sign = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let is_good = text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(is_sign);
    if !is_good || text.len() > NAME_BYTES_MAX {
        return Err(format!(
            "{text:?} is no name: write a letter, then letters, digits, - and _, at most {NAME_BYTES_MAX} in all"
        ));
    }
    Ok(text.to_owned())
}

/// The variables, with their names as templates fold them.
fn vars(raw: &Vars, keys: &[String]) -> Result<Vars, (&'static str, String)> {
    let mut vars = Vars::new();
    for (name, values) in raw {
        let folded = parse_column(name).map_err(|reason| ("vars", reason))?;
        if matches!(folded.as_str(), "schema" | "table") {
            return Err(("vars", format!("{name} has a meaning of its own in templates; choose another name")));
        }
        if values.is_empty() {
            return Err(("vars", format!("{name} has no value, so that no key could be made; give it one or more")));
        }
        let names_it = |key: &String| key.replace(' ', "").to_ascii_lowercase().contains(&format!("{{{folded}"));
        if !keys.iter().any(names_it) {
            return Err(("vars", format!("no template names {{{name}}}; use it in keys:, or leave it out")));
        }
        if vars.insert(folded, values.clone()).is_some() {
            return Err(("vars", format!("{name} is there twice: names are folded to lower case; leave one out")));
        }
    }
    Ok(vars)
}

fn scopes(given: Option<&str>, keys: &[Template], action: Action) -> Result<Vec<Scope>, (&'static str, String)> {
    if let Some(pattern) = given {
        check_scope(pattern, keys).map_err(|reason| ("scope", reason))?;
        return Ok(vec![Scope { action, keys: Extent::read(pattern) }]);
    }
    if let Some(bare) = keys.iter().find(|template| !template.has_literal()) {
        let reason = format!(
            "{:?} has no literal text, so a flush would cover every key there is; add a prefix, or, if that is what a \
             flush may remove, write scope: \"*\"",
            bare.text()
        );
        return Err(("keys", reason));
    }
    Ok(keys.iter().map(|template| Scope { action, keys: Extent::read(&template.scope_pattern()) }).collect())
}

/// Checks that a flush removes every key that the rule can have made.
fn check_scope(pattern: &str, keys: &[Template]) -> Result<(), String> {
    if pattern.is_empty() {
        return Err("it is empty; write a glob as Redis reads it, e.g. \"sess:*\"".to_owned());
    }
    let scope = Shape::of_glob(pattern);
    // A flush also appends a suffix to the pattern, for leases and pointers. The suffix must not become part of the
    // glob's last element.
    if !scope.is_followed_in(&Shape::of_glob(&format!("{pattern}:")), b':') {
        return Err(format!("{pattern:?} ends within a [class] or with a lone backslash; close it, or leave it out"));
    }
    if Pattern::read(pattern).has_wide_class() {
        return Err(format!("{pattern:?} has a [class] with a character that is not ASCII; write a * in its place"));
    }
    let missed = keys.iter().find(|template| !cover(std::slice::from_ref(&scope), &Shape::of_any_text(template)));
    let Some(missed) = missed else { return Ok(()) };
    Err(format!(
        "{pattern:?} does not match every key of {:?}, so a flush would leave stale keys behind; leave scope: out (a flush \
         then covers {:?}), or write a wider glob. A placeholder can stand for any text",
        missed.text(),
        missed.scope_pattern()
    ))
}

fn places(named: Option<&[String]>, targets: &[String]) -> Result<Vec<usize>, (&'static str, String)> {
    let Some(named) = named else {
        return Ok((0..targets.len()).collect());
    };
    if named.is_empty() {
        return Err(("targets", "it is empty; name a target, or leave the field out to mean all".to_owned()));
    }
    let find = |name: &String| {
        targets.iter().position(|target| target == name).ok_or_else(|| {
            let near = super::nearest(name, targets.iter().map(String::as_str));
            let hint = near.map(|near| format!("did you mean {near:?}? ")).unwrap_or_default();
            ("targets", format!("there is no target {name:?}; {hint}known: {}", targets.join(", ")))
        })
    };
    let mut places = named.iter().map(find).collect::<Result<Vec<_>, _>>()?;
    places.sort_unstable();
    places.dedup();
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(raw: RawRule) -> String {
        resolve(&[raw], &["cache".into(), "edge".into()]).unwrap_err()[0].to_string()
    }

    #[test]
    fn a_rule_goes_to_all_targets_unless_it_names_some() {
        let targets = ["cache".into(), "edge".into()];
        let all = resolve(&[RawRule::of("users", &["user:{id}"])], &targets).unwrap();
        assert_eq!(all[0].targets, [0, 1]);
        let some = RawRule { targets: Some(vec!["edge".into()]), ..RawRule::of("users", &["user:{id}"]) };
        assert_eq!(resolve(&[some], &targets).unwrap()[0].targets, [1]);
    }

    #[test]
    fn every_wrong_rule_is_named_at_once() {
        let wrong = [RawRule::of("a.b.c", &["x:{id}"]), RawRule::of("t", &["x:{id}"]), RawRule::of("t", &[])];
        let errors = resolve(&wrong, &["cache".into()]).unwrap_err();
        assert_eq!(errors.iter().map(|e| (e.index, e.field)).collect::<Vec<_>>(), [(0, "table"), (2, "keys")]);
    }

    #[test]
    fn a_name_takes_the_place_of_the_number_and_is_unique() {
        let named = |name: &str| RawRule { name: Some(name.into()), ..RawRule::of("users", &["user:{id}"]) };
        let rules = resolve(&[named("profiles"), RawRule::of("users", &["u:{id}"])], &["cache".into()]).unwrap();
        let subjects: Vec<String> = rules.iter().map(Rule::subject).collect();
        assert_eq!(subjects, ["rules[profiles] public.users", "rules[1] public.users"]);
        let signature = |raw: RawRule| resolve(&[raw], &["cache".into()]).unwrap()[0].signature();
        assert_eq!(signature(named("a")), signature(named("b")), "a new name must not look like a new rule");
        let twice = resolve(&[named("a"), named("b"), named("a")], &["cache".into()]).unwrap_err();
        assert_eq!((twice.len(), twice[0].index, twice[0].field), (1, 2, "name"));
        for wrong in ["", "1", "a b", "ä", "-a", &"a".repeat(64)] {
            assert!(resolve(&[named(wrong)], &["cache".into()]).is_err(), "{wrong}");
        }
        insta::assert_snapshot!(error(named("2")), @r#"rules[0].name: "2" is no name: write a letter, then letters, digits, - and _, at most 63 in all"#);
    }

    #[test]
    fn a_template_without_literal_text_needs_a_scope() {
        insta::assert_snapshot!(error(RawRule::of("t", &["{id}"])), @r#"rules[0].keys: "{id}" has no literal text, so a flush would cover every key there is; add a prefix, or, if that is what a flush may remove, write scope: "*""#);
        let rules = resolve(&[scoped("*", &["{id}"])], &["cache".into()]).unwrap();
        assert_eq!(rules[0].scope(0).unwrap().keys, Extent::All);
    }

    fn scoped(scope: &str, keys: &[&str]) -> RawRule {
        RawRule { scope: Some(scope.into()), ..RawRule::of("t", keys) }
    }

    #[test]
    fn a_scope_that_misses_keys_of_its_rule_is_refused() {
        insta::assert_snapshot!(error(scoped("user:[0-9]*", &["user:{id}"])), @r#"rules[0].scope: "user:[0-9]*" does not match every key of "user:{id}", so a flush would leave stale keys behind; leave scope: out (a flush then covers "user:*"), or write a wider glob. A placeholder can stand for any text"#);
        for (scope, keys) in
            [("sess:*", &["{id}"][..]), ("user:*", &["user:{id}", "mail:{email}"]), ("u:*:x", &["u:{id}:x", "u:{id}"])]
        {
            assert!(error(scoped(scope, keys)).contains("does not match every key"), "{scope}");
        }
        for (scope, keys) in [("user:*", &["user:{id}", "user:by-email:{email|lower}"][..]), ("*", &["{id}", "x"])] {
            assert!(resolve(&[scoped(scope, keys)], &["cache".into()]).is_ok(), "{scope}");
        }
    }

    #[test]
    fn a_scope_whose_last_sign_would_swallow_a_suffix_is_refused() {
        insta::assert_snapshot!(error(scoped("user:*[^", &["user:{id}x"])), @r#"rules[0].scope: "user:*[^" ends within a [class] or with a lone backslash; close it, or leave it out"#);
        insta::assert_snapshot!(error(scoped("user:[a-é]*", &["user:{id}x"])), @r#"rules[0].scope: "user:[a-é]*" has a [class] with a character that is not ASCII; write a * in its place"#);
        for scope in ["user:*\\", "user:*[", "user:*[^\\", "user:*[a-", "user:*[]"] {
            assert!(error(scoped(scope, &["user:{id}x"])).starts_with("rules[0].scope: "), "{scope}");
        }
        assert!(resolve(&[scoped("user:*[^]", &["user:{id}x"])], &["cache".into()]).is_ok());
    }

    #[test]
    fn an_unknown_target_names_the_nearest_one() {
        let wrong = RawRule { targets: Some(vec!["cach".into()]), ..RawRule::of("t", &["x:{id}"]) };
        insta::assert_snapshot!(error(wrong), @r#"rules[0].targets: there is no target "cach"; did you mean "cache"? known: cache, edge"#);
    }
}
