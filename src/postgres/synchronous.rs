//! Decides whether `synchronous_standby_names` counts our walsender (`SyncRepGetStandbyPriority` and `syncrep_gram.y`
//! in the Postgres source: logical walsenders are candidates too). Writers would then wait until coherd confirms their
//! commits. coherd confirms a commit only when it sees it, and it sees it only when the writer has stopped waiting.

use std::fmt;

use crate::types::table::quote_literal;

/// The names of the standbys that stream from the server, one per row, as far as the role may see them (`pg_monitor`).
pub(super) const STANDBYS: &str = "
SELECT DISTINCT s.application_name FROM pg_catalog.pg_stat_replication s
LEFT JOIN pg_catalog.pg_replication_slots l ON l.active_pid = s.pid
WHERE s.state = 'streaming' AND s.application_name <> '' AND l.slot_type IS DISTINCT FROM 'logical' ORDER BY 1";

/// A match, at any rank: a standby of last resort counts as soon as the others are gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    setting: String,
    application_name: String,
    /// Matched by `*`, not by its name.
    by_star: bool,
    /// The setting without us; `None` if the names that belong there are unknown.
    replacement: Option<String>,
}

/// Whether a walsender called `application_name` counts under `setting`, and what to set instead if the server's
/// standbys are called `standbys`. A cascading walsender, that of a server in recovery, never counts.
pub fn counted(setting: &str, application_name: &str, standbys: &[String]) -> Option<Counted> {
    let rule = Rule::parse(setting);
    let is_us = |name: &str| name.eq_ignore_ascii_case(application_name);
    let by_star = rule.names.iter().any(|name| name == "*");
    if !by_star && !rule.names.iter().any(|name| is_us(name)) {
        return None;
    }
    let mut names: Vec<&str> = Vec::new();
    for name in &rule.names {
        match name.as_str() {
            "*" => names.extend(standbys.iter().map(String::as_str).filter(|name| !is_us(name))),
            name if is_us(name) => {}
            name => names.push(name),
        }
    }
    let mut once: Vec<&str> = Vec::new();
    for name in names {
        if !once.iter().any(|before| before.eq_ignore_ascii_case(name)) {
            once.push(name);
        }
    }
    let replacement = (!by_star || !once.is_empty()).then(|| rule.of(&once));
    Some(Counted { setting: setting.to_owned(), application_name: application_name.to_owned(), by_star, replacement })
}

impl Counted {
    /// What is wrong, and what helps besides the remedy.
    pub fn message(&self) -> String {
        let rename =
            if self.by_star { "" } else { ", or give coherd another application_name in the connection string" };
        format!(
            "synchronous_standby_names is {}, which counts coherd (application_name {}) as a synchronous standby. \
             Writers would wait for coherd to confirm their commits, and coherd for these commits to become visible: a \
             deadlock. Name only standbys there (on a managed service, in its parameter group){rename}",
            literal(&self.setting),
            literal(&self.application_name)
        )
    }

    /// Statements that fix it, in order.
    pub fn remedy(&self) -> Vec<String> {
        let reload = "SELECT pg_catalog.pg_reload_conf();".to_owned();
        match &self.replacement {
            Some(setting) => {
                vec![format!("ALTER SYSTEM SET synchronous_standby_names = {};", literal(setting)), reload]
            }
            // Postgres refuses this statement as it stands, so no writer can end up waiting for a standby of that name.
            None => vec![
                "SELECT application_name FROM pg_catalog.pg_stat_replication; -- the standbys' names are among these"
                    .to_owned(),
                "ALTER SYSTEM SET synchronous_standby_names = '<the standbys>';".to_owned(),
                reload,
            ],
        }
    }
}

/// Message and remedy on one line.
impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.message())?;
        match &self.replacement {
            Some(_) => f.write_str(&self.remedy().join(" ")),
            None => f.write_str(
                "ALTER SYSTEM SET synchronous_standby_names = '<the standbys>'; SELECT pg_catalog.pg_reload_conf(); with their \
                 names from SELECT application_name FROM pg_catalog.pg_stat_replication;",
            ),
        }
    }
}

fn literal(text: &str) -> String {
    quote_literal(text).trim_start().to_owned()
}

/// The parsed setting: `a, b`, `2 (a, b)`, `FIRST 2 (a, b)` or `ANY 2 (a, b)`.
#[derive(Debug, PartialEq, Eq)]
struct Rule {
    /// `FIRST` or `ANY`, if present.
    method: Option<String>,
    /// How many standbys a commit waits for, if present.
    count: Option<usize>,
    names: Vec<String>,
}

impl Rule {
    /// Parses a setting that the server has accepted.
    fn parse(setting: &str) -> Rule {
        let mut words = Vec::new();
        let mut names = None;
        let mut rest = setting;
        while let Some(first) = rest.chars().next() {
            let length = match first {
                '"' => {
                    let (name, length) = quoted(rest);
                    words.push(name);
                    length
                }
                '(' => {
                    names = Some(std::mem::take(&mut words));
                    1
                }
                '*' => {
                    words.push("*".to_owned());
                    1
                }
                first if is_part_of_a_name(first) => {
                    let length = rest.find(|c| !is_part_of_a_name(c)).unwrap_or(rest.len());
                    words.extend(rest.get(..length).map(str::to_owned));
                    length
                }
                // A space, a comma or the closing bracket.
                other => other.len_utf8(),
            };
            rest = rest.get(length..).unwrap_or_default();
        }
        // The words before a bracket are not names.
        let mut before = names.unwrap_or_default().into_iter().rev();
        Rule { count: before.next().and_then(|count| count.parse().ok()), method: before.next(), names: words }
    }

    /// The same rule for other names. It waits for no more standbys than there are.
    fn of(&self, names: &[&str]) -> String {
        let list = names.iter().map(|name| as_written(name)).collect::<Vec<_>>().join(", ");
        match self.count {
            Some(count) if !names.is_empty() => {
                let method = self.method.as_ref().map(|method| format!("{method} ")).unwrap_or_default();
                format!("{method}{} ({list})", count.min(names.len()))
            }
            _ => list,
        }
    }
}

fn is_part_of_a_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '$') || !c.is_ascii()
}

/// The double-quoted name at the start of `text`, and how many bytes it takes.
fn quoted(text: &str) -> (String, usize) {
    let mut name = String::new();
    let mut marks = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = marks.next() {
        match (c, marks.peek()) {
            ('"', Some((_, '"'))) => {
                marks.next();
                name.push('"');
            }
            ('"', _) => return (name, at + 1),
            (c, _) => name.push(c),
        }
    }
    (name, text.len())
}

fn as_written(name: &str) -> String {
    let keyword = ["any", "first"].iter().any(|word| name.eq_ignore_ascii_case(word));
    let begins_well = name.starts_with(|c: char| !c.is_ascii_digit() && c != '$');
    if begins_well && !keyword && name.chars().all(is_part_of_a_name) {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The setting that is proposed: `None` if nothing counts us, empty if it is unknown.
    fn replacement(setting: &str) -> Option<String> {
        let standbys = ["s1".to_owned(), "s-2".to_owned(), "Coherd".to_owned()];
        counted(setting, "coherd", &standbys).map(|its| its.replacement.unwrap_or_default())
    }

    #[test]
    fn every_form_of_the_setting_is_read_as_postgres_reads_it() {
        for fine in
            ["", "a", "a, b", "coherd2", "FIRST 2 (a, b)", "any 1 (a)", "2(a,b)", "\"coherd \"", "\"co\"\"herd\""]
        {
            assert_eq!(replacement(fine), None, "{fine}");
        }
        for (setting, instead) in [
            ("*", "s1, \"s-2\""),
            ("\"*\"", "s1, \"s-2\""),
            ("a, *", "a, s1, \"s-2\""),
            ("S1, *", "S1, \"s-2\""),
            ("coherd", ""),
            ("CoHerd, a", "a"),
            ("\"coherd\",a,\"b c\"", "a, \"b c\""),
            ("FIRST 1 (s1, coherd)", "FIRST 1 (s1)"),
            ("first 2 (\ta ,coherd )", "first 1 (a)"),
            ("ANY 2 (a, \"COHERD\", b)", "ANY 2 (a, b)"),
            ("2 (a, b, coherd)", "2 (a, b)"),
            ("1 (*)", "1 (s1, \"s-2\")"),
            ("3(coherd)", ""),
            ("coherd, \"first\", \"2b\", \"a\"\"b\"", "\"first\", \"2b\", \"a\"\"b\""),
        ] {
            assert_eq!(replacement(setting).as_deref(), Some(instead), "{setting}");
        }
    }

    #[test]
    fn names_before_a_bracket_are_none() {
        assert_eq!(counted("FIRST 1 (a)", "first", &[]), None);
        assert_eq!(counted("1 (a)", "1", &[]), None);
        assert!(counted("1", "1", &[]).is_some());
    }

    #[test]
    fn what_is_cut_short_breaks_nothing() {
        for setting in ["\"", "\"coherd", "FIRST 1 (", "(", ")", "é", "1 (coherd"] {
            let _ = counted(setting, "coherd", &[]);
        }
    }

    #[test]
    fn nobody_is_told_to_wait_for_a_standby_that_is_not_known() {
        let counted = counted("*", "coherd", &[]).unwrap();
        assert_eq!(counted.replacement, None);
        insta::assert_snapshot!(counted, @r#"
        synchronous_standby_names is '*', which counts coherd (application_name 'coherd') as a synchronous standby. Writers would wait for coherd to confirm their commits, and coherd for these commits to become visible: a deadlock. Name only standbys there (on a managed service, in its parameter group): ALTER SYSTEM SET synchronous_standby_names = '<the standbys>'; SELECT pg_catalog.pg_reload_conf(); with their names from SELECT application_name FROM pg_catalog.pg_stat_replication;
        "#);
    }
}
