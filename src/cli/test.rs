//! `coherd test`: runs the cases below `tests:`. Needs no database, no cache and no secret.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::columns::{columns, plain};
use super::{Failure, print};
use crate::config::Tested;
use crate::rules::case::{Made, Outcome};

/// `coherd test`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Reads only rules: and tests:, so it runs where no database is. Exits with 0 if every case passes, 1 if \
                  one fails, 78 if the rules or the cases cannot be read.\n\n  coherd test config/coherd.yaml\n  coherd \
                  test --format junit config/coherd.yaml >coherd.xml"
)]
pub struct Args {
    /// The configuration file, in place of --config
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// What is written to stdout
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// The failures, for people
    Text,
    /// One JSON object, for programs
    Json,
    /// JUnit's XML, for CI
    Junit,
}

/// One case that has run.
struct Ran<'a> {
    name: &'a str,
    outcome: Outcome,
}

/// Runs all cases and prints what they show.
pub fn run(config: &Path, args: &Args) -> Result<(), Failure> {
    let file = args.file.as_deref().unwrap_or(config);
    let tested = Tested::load(file, &|name| std::env::var(name).ok())?;
    let ran = tested.cases.iter().map(|case| Ran { name: &case.name, outcome: case.run(&tested.rules) });
    let all: Vec<Ran<'_>> = ran.collect();
    let failed = all.iter().filter(|ran| !ran.outcome.passed()).count();
    print(&match args.format {
        Format::Text => text(&all, failed),
        Format::Json => format!("{}\n", json(&all, failed)),
        Format::Junit => junit(&all, failed),
    })?;
    if failed == 0 { Ok(()) } else { Err(Failure::Told) }
}

fn text(all: &[Ran<'_>], failed: usize) -> String {
    let mut text = String::new();
    for (index, Ran { name, outcome }) in all.iter().enumerate().filter(|(_, ran)| !ran.outcome.passed()) {
        let _ = writeln!(text, "tests[{index}] {} failed\n{}", plain(name), table(outcome));
    }
    let _ = writeln!(text, "{} passed, {failed} failed", all.len() - failed);
    text
}

/// Expected and actual keys and scopes side by side, each with what makes it.
fn table(outcome: &Outcome) -> String {
    let keys = side_by_side("", &outcome.expected_keys, &outcome.keys);
    let flushes = side_by_side("flush ", &outcome.expected_flushes, &outcome.flushes);
    let rows: Vec<_> = keys.chain(flushes).collect();
    let lines = columns(&["expected", "invalidated", "by"], &rows);
    lines.lines().fold(String::new(), |text, line| text + "  " + line + "\n")
}

/// Rows of two sorted lists: what is expected, what happened, and what made it.
fn side_by_side<'a>(
    kind: &'a str,
    expected: &'a [String],
    made: &'a [Made],
) -> impl Iterator<Item = Vec<String>> + use<'a> {
    let made_texts = made.iter().map(|made| made.text.as_str());
    let all: BTreeSet<&str> = expected.iter().map(String::as_str).chain(made_texts).collect();
    all.into_iter().map(move |text| {
        let is = |there: bool| if there { format!("{kind}{text}") } else { "-".to_owned() };
        let its = made.iter().find(|made| made.text == text);
        let by = its.map(|made| made.by.join("; ")).unwrap_or_default();
        vec![is(expected.iter().any(|expected| expected == text)), is(its.is_some()), by]
    })
}

fn json(all: &[Ran<'_>], failed: usize) -> Value {
    let made = |made: &[Made], field: &str| -> Value {
        made.iter().map(|its| json!({field: its.text, "by": its.by})).collect()
    };
    let one = |ran: &Ran<'_>| {
        let Outcome { expected_keys, expected_flushes, keys, flushes } = &ran.outcome;
        json!({
            "name": ran.name,
            "passed": ran.outcome.passed(),
            "expected": {"keys": expected_keys, "flushes": expected_flushes},
            "invalidated": {"keys": made(keys, "key"), "flushes": made(flushes, "scope")},
        })
    };
    json!({"passed": all.len() - failed, "failed": failed, "tests": all.iter().map(one).collect::<Vec<_>>()})
}

fn junit(all: &[Ran<'_>], failed: usize) -> String {
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"coherd\" tests=\"{}\" failures=\"{failed}\">\n",
        all.len()
    );
    for Ran { name, outcome } in all {
        let _ = write!(xml, "  <testcase classname=\"coherd\" name=\"{}\"", escaped(name));
        if outcome.passed() {
            xml.push_str("/>\n");
        } else {
            let failure = escaped(&table(outcome));
            let _ = write!(xml, ">\n    <failure message=\"other keys\">\n{failure}</failure>\n  </testcase>\n");
        }
    }
    xml.push_str("</testsuite>\n");
    xml
}

/// Text for XML 1.0, which has no way to write most control characters.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(character),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            control if control.is_control() => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> Outcome {
        let made = |text: &str, by: &str| Made { text: text.to_owned(), by: vec![by.to_owned()] };
        Outcome {
            expected_keys: vec!["post:1:de".into(), "post:1:en".into()],
            expected_flushes: Vec::new(),
            keys: vec![made("post:1:en", "rules[0] public.posts \"post:{id}:{lang}\"")],
            flushes: vec![made("feed:*", "rules[1] public.posts \"feed:{author}\"")],
        }
    }

    #[test]
    fn a_failure_shows_both_sides_and_what_made_them() {
        insta::assert_snapshot!(text(&[Ran { name: "a <b>\u{7}", outcome: failure() }], 1), @r#"
        tests[0] a <b>  failed
          expected   invalidated   by
          post:1:de  -
          post:1:en  post:1:en     rules[0] public.posts "post:{id}:{lang}"
          -          flush feed:*  rules[1] public.posts "feed:{author}"

        0 passed, 1 failed
        "#);
    }

    #[test]
    fn junit_escapes_what_xml_cannot_hold() {
        insta::assert_snapshot!(junit(&[Ran { name: "a \"<b>\"&\u{7}", outcome: failure() }], 1), @r#"
        <?xml version="1.0" encoding="UTF-8"?>
        <testsuite name="coherd" tests="1" failures="1">
          <testcase classname="coherd" name="a &quot;&lt;b&gt;&quot;&amp;�">
            <failure message="other keys">
          expected   invalidated   by
          post:1:de  -
          post:1:en  post:1:en     rules[0] public.posts &quot;post:{id}:{lang}&quot;
          -          flush feed:*  rules[1] public.posts &quot;feed:{author}&quot;
        </failure>
          </testcase>
        </testsuite>
        "#);
    }
}
