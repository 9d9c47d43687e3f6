//! Splits a fix into statements, and refuses those that cannot run in a transaction that is rolled back.
//!
//! Finds quotes, comments and function bodies as psql does (Postgres manual, "Lexical Structure"; `psqlscan.l`). The
//! server has the final say: coherd prepares each statement alone, and the server refuses a text that holds two.

use crate::rules::nearest;

/// One statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement<'a> {
    /// Without the semicolon; includes comments before and within it.
    pub text: &'a str,
    /// Where it begins in the script, in bytes.
    pub at: usize,
    /// Its words outside quotes, as written, each with its byte offset in the script.
    words: Vec<(usize, &'a str)>,
}

/// Why and where a script is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// In bytes of the script.
    pub at: usize,
    /// What is wrong there and what to do.
    pub reason: String,
}

/// Statements, by their first word, that a rollback undoes. All others are refused.
const ALLOWED: &[&str] = &[
    "alter",
    "analyze",
    "call",
    "close",
    "cluster",
    "comment",
    "copy",
    "create",
    "deallocate",
    "declare",
    "delete",
    "do",
    "drop",
    "execute",
    "explain",
    "fetch",
    "grant",
    "import",
    "insert",
    "lock",
    "merge",
    "move",
    "notify",
    "prepare",
    "reassign",
    "refresh",
    "reindex",
    "release",
    "reset",
    "revoke",
    "rollback",
    "savepoint",
    "security",
    "select",
    "set",
    "show",
    "table",
    "truncate",
    "update",
    "values",
    "with",
];

const ONE_TRANSACTION: &str = "the fix is tried in one transaction, which is rolled back, so it may neither begin nor end \
    one; leave it out, and run the file with psql -1 -f, which puts BEGIN and COMMIT around it";

/// The line and the column, each from 1, of a place in `text`.
pub fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
    (before.matches('\n').count() + 1, column)
}

/// Splits `text` into statements. Fails at the first one that cannot be tried.
pub fn split(text: &str) -> Result<Vec<Statement<'_>>, Refused> {
    let mut statements = Vec::new();
    let mut lexer = Lexer { text, at: 0 };
    while let Some(statement) = lexer.statement()? {
        if let Some(reason) = statement.refusal() {
            let at = statement.words.first().map_or(statement.at, |(at, _)| *at);
            return Err(Refused { at, reason });
        }
        if !statement.words.is_empty() {
            statements.push(statement);
        }
    }
    Ok(statements)
}

impl Statement<'_> {
    fn is(&self, index: usize, word: &str) -> bool {
        self.words.get(index).is_some_and(|(_, its)| its.eq_ignore_ascii_case(word))
    }

    fn has(&self, wanted: &[&str]) -> bool {
        self.words.iter().any(|(_, word)| wanted.iter().any(|wanted| word.eq_ignore_ascii_case(wanted)))
    }

    /// Why the statement may not be tried.
    fn refusal(&self) -> Option<String> {
        let first = self.words.first()?.1.to_ascii_lowercase();
        let name = first.to_ascii_uppercase();
        let told = |why: &str| Some(format!("{name} cannot be tried: {why}"));
        match first.as_str() {
            "begin" | "start" | "commit" | "end" | "abort" => told(ONE_TRANSACTION),
            "rollback" if !(1..=2).any(|index| self.is(index, "to")) => told(ONE_TRANSACTION),
            "prepare" if self.is(1, "transaction") => told(ONE_TRANSACTION),
            "vacuum" => told("it runs in no transaction, and changes no row; leave it out"),
            "copy" if self.has(&["stdin", "stdout"]) => told(
                "rows that come from the client are not read here; use INSERT … VALUES, or COPY from a file of the \
                      server",
            ),
            "copy" if self.has(&["to", "program"]) => {
                told("it writes a file or runs a program, which no rollback undoes")
            }
            "create" | "drop" | "reindex" if self.has(&["concurrently"]) => {
                told("CONCURRENTLY runs in no transaction, and changes no row; leave it out")
            }
            "checkpoint" | "discard" | "load" => told("no rollback undoes it; leave it out"),
            known if ALLOWED.contains(&known) => None,
            _ => Some(match nearest(&first, ALLOWED.iter().copied()) {
                Some(near) => format!("unknown statement {name}; did you mean {}?", near.to_ascii_uppercase()),
                None => format!("unknown statement {name}; coherd runs only statements that a rollback undoes"),
            }),
        }
    }
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn refuse<T>(at: usize, reason: &str) -> Result<T, Refused> {
        Err(Refused { at, reason: reason.to_owned() })
    }

    /// The next statement, which may have no words. `None` at the end.
    fn statement(&mut self) -> Result<Option<Statement<'a>>, Refused> {
        let from = self.at;
        if self.rest().is_empty() {
            return Ok(None);
        }
        let mut words: Vec<(usize, &str)> = Vec::new();
        let (mut parentheses, mut bodies) = (0_usize, 0_usize);
        while let Some(c) = self.rest().chars().next() {
            let here = self.at;
            match c {
                ';' if parentheses == 0 && bodies == 0 => break,
                '\\' => {
                    return Self::refuse(here, "a command of psql begins here, and this is not psql: leave it out");
                }
                '(' => parentheses += 1,
                ')' => parentheses = parentheses.saturating_sub(1),
                '\'' => {
                    let escapes = |(at, word): &(usize, &str)| word.eq_ignore_ascii_case("e") && at + 1 == here;
                    self.quoted('\'', words.last().is_some_and(escapes))?;
                    continue;
                }
                '"' => {
                    self.quoted('"', false)?;
                    continue;
                }
                '$' if self.dollar_quoted()? => continue,
                '-' if self.rest().starts_with("--") => {
                    self.at += self.rest().find(['\n', '\r']).unwrap_or(self.rest().len());
                    continue;
                }
                '/' if self.rest().starts_with("/*") => {
                    self.comment()?;
                    continue;
                }
                c if begins_word(c) => {
                    words.push((here, self.word()));
                    bodies = body_depth(bodies, &words);
                    continue;
                }
                _ => {}
            }
            self.at += c.len_utf8();
        }
        let text = self.text.get(from..self.at).unwrap_or_default();
        // Skip the semicolon.
        self.at += usize::from(!self.rest().is_empty());
        Ok(Some(Statement { text, at: from, words }))
    }

    /// Reads a word, including digits and dollar signs in it.
    fn word(&mut self) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c: char| !(begins_word(c) || c.is_ascii_digit() || c == '$')).unwrap_or(rest.len());
        self.at += end;
        rest.get(..end).unwrap_or_default()
    }

    /// Skips a quoted text. A doubled quote stands for one quote in the text.
    fn quoted(&mut self, quote: char, escapes: bool) -> Result<(), Refused> {
        let from = self.at;
        self.at += 1;
        while let Some(c) = self.rest().chars().next() {
            self.at += c.len_utf8();
            let doubled = c == quote && self.rest().starts_with(quote);
            if c == quote && !doubled {
                return Ok(());
            }
            if doubled || (c == '\\' && escapes) {
                self.at += self.rest().chars().next().map_or(0, char::len_utf8);
            }
        }
        Self::refuse(from, "a quote begins here that never ends")
    }

    /// Skips a dollar-quoted text and returns true if one begins here. Otherwise the `$` is a parameter, or not SQL.
    fn dollar_quoted(&mut self) -> Result<bool, Refused> {
        let (from, rest) = (self.at, self.rest());
        let Some(end) = rest.get(1..).and_then(|rest| rest.find('$')) else { return Ok(false) };
        let (tag, body) = rest.split_at(end + 2);
        let name = tag.trim_matches('$');
        let is_tag = name.chars().enumerate().all(|(i, c)| begins_word(c) || (i > 0 && c.is_ascii_digit()));
        if !is_tag {
            return Ok(false);
        }
        let Some(length) = body.find(tag) else {
            return Self::refuse(from, "a text in dollar quotes begins here that never ends");
        };
        self.at += tag.len() + length + tag.len();
        Ok(true)
    }

    /// Skips a comment. Comments nest.
    fn comment(&mut self) -> Result<(), Refused> {
        let from = self.at;
        let mut depth = 0_usize;
        while let Some(c) = self.rest().chars().next() {
            let two = self.rest().get(..2);
            let step = match two {
                Some("/*") => {
                    depth += 1;
                    2
                }
                Some("*/") => {
                    depth -= 1;
                    2
                }
                _ => c.len_utf8(),
            };
            self.at += step;
            if depth == 0 {
                return Ok(());
            }
        }
        Self::refuse(from, "a comment begins here that never ends")
    }
}

fn begins_word(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || !c.is_ascii()
}

/// How many `BEGIN ATOMIC … END` bodies of SQL functions are open after the last of `words`.
fn body_depth(depth: usize, words: &[(usize, &str)]) -> usize {
    let is = |index: usize, wanted: &[&str]| {
        words.get(index).is_some_and(|(_, word)| wanted.iter().any(|wanted| word.eq_ignore_ascii_case(wanted)))
    };
    let made = if is(1, &["or"]) && is(2, &["replace"]) { 3 } else { 1 };
    if !is(0, &["create"]) || !is(made, &["function", "procedure"]) {
        return 0;
    }
    let last = words.len().saturating_sub(1);
    if is(last, &["begin"]) || (depth > 0 && is(last, &["case"])) {
        depth + 1
    } else if is(last, &["end"]) {
        depth.saturating_sub(1)
    } else {
        depth
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(sql: &str) -> Vec<&str> {
        split(sql).unwrap().into_iter().map(|statement| statement.text.trim()).collect()
    }

    fn refused(sql: &str) -> String {
        let Refused { at, reason } = split(sql).unwrap_err();
        let (line, column) = place(sql, at);
        format!("{line}:{column}: {reason}")
    }

    #[test]
    fn a_semicolon_ends_a_statement_only_where_it_is_one() {
        assert_eq!(texts("SELECT 1; SELECT 2 ;; -- done;\n"), ["SELECT 1", "SELECT 2"]);
        for alone in [
            "SELECT ';', 'it''s;', E'a\\';b', U&'d;', \"x;\"\"y\", B'1', '\\'",
            "SELECT $$;$$, $a1$ ; $$ ; $b$ $a1$, $ä$;$ä$",
            "SELECT 1 /* ; /* ; */ ; */ -- ;\n + 2",
            "CREATE RULE r AS ON INSERT TO t DO ALSO (DELETE FROM a; DELETE FROM b)",
            "CREATE OR REPLACE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END",
            "DO $do$ BEGIN PERFORM 1; END $do$",
            "SELECT a$1, one$two$three FROM t WHERE e = 'x\\'",
        ] {
            assert_eq!(texts(&format!("{alone}; SELECT 2")), [alone, "SELECT 2"]);
        }
    }

    #[test]
    fn what_ends_a_transaction_or_leaves_it_is_refused_with_its_place() {
        for sql in [
            "COMMIT",
            "commit work",
            "/* x */ End",
            "BEGIN",
            "START TRANSACTION",
            "ABORT",
            "ROLLBACK",
            "rollback work",
            "ROLLBACK AND CHAIN",
            "PREPARE TRANSACTION 'x'",
            "COMMIT PREPARED 'x'",
            "ROLLBACK PREPARED 'x'",
            "VACUUM t",
            "COPY t FROM STDIN",
            "COPY t TO '/tmp/x'",
            "COPY t FROM PROGRAM 'x'",
            "CHECKPOINT",
            "LOAD 'x'",
            "DISCARD ALL",
            "CREATE INDEX CONCURRENTLY i ON t (a)",
            "\\copy t from x",
            "UPDATE t SET a = 1 \\gset",
            "frobnicate",
        ] {
            let refused = refused(&format!("SELECT 1;\n  {sql};"));
            assert!(refused.starts_with("2:"), "{sql}: {refused}");
        }
        insta::assert_snapshot!(refused("UPDATE t SET a = 1;\n-- then\n COMMIT;"), @"3:2: COMMIT cannot be tried: the fix is tried in one transaction, which is rolled back, so it may neither begin nor end one; leave it out, and run the file with psql -1 -f, which puts BEGIN and COMMIT around it");
        insta::assert_snapshot!(refused("vacuum full t"), @"1:1: VACUUM cannot be tried: it runs in no transaction, and changes no row; leave it out");
        insta::assert_snapshot!(refused("UPDAT t SET a = 1"), @"1:1: unknown statement UPDAT; did you mean UPDATE?");
        insta::assert_snapshot!(refused("frobnicate"), @"1:1: unknown statement FROBNICATE; coherd runs only statements that a rollback undoes");
        insta::assert_snapshot!(refused("CHECKPOINT"), @"1:1: CHECKPOINT cannot be tried: no rollback undoes it; leave it out");
        insta::assert_snapshot!(refused("SELECT 'a'';"), @"1:8: a quote begins here that never ends");
        insta::assert_snapshot!(refused("SELECT 1; /* a /* b */"), @"1:11: a comment begins here that never ends");
        insta::assert_snapshot!(refused("DO $x$ BEGIN END $y$"), @"1:4: a text in dollar quotes begins here that never ends");
    }

    #[test]
    fn savepoints_prepared_statements_and_words_in_quotes_are_fine() {
        for sql in [
            "SAVEPOINT s",
            "ROLLBACK TO s",
            "ROLLBACK WORK TO SAVEPOINT s",
            "RELEASE s",
            "PREPARE p AS SELECT 1",
            "SELECT 'COMMIT'",
            "(SELECT 1)",
            "COPY t FROM '/srv/x.csv'",
            "REFRESH MATERIALIZED VIEW CONCURRENTLY m",
        ] {
            assert_eq!(texts(sql), [sql]);
        }
        assert!(texts(" ; -- nothing\n /* at all */ ").is_empty());
    }
}
