//! `coherd test` as a process: what it needs, what it prints, its exit codes and its speed.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::docs::{RULES, blocks_of};

fn coherd_test(file: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(crate::support::daemon::coherd());
    command.arg("test").args(arguments).arg(file).env_remove("COHERD_CONFIG");
    command.output().unwrap()
}

fn run(text: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.yaml");
    std::fs::write(&file, text).unwrap();
    let output = coherd_test(&file, arguments);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Secrets and files of other sections are not there where tests run.
const HEAD: &str = "source: {dsn: 'host=${NOT_SET}'}
targets: {cache: {url_file: /no/such/file}}
rules:
  - {table: users, keys: ['user:{id}', 'mail:{email|lower}']}
";

fn with_case(expect: &str) -> String {
    format!(
        "{HEAD}tests:\n  - {{name: moves, update: users, old: {{id: 1, email: A}}, new: {{email: b}}, expect: {expect}}}\n"
    )
}

#[test]
fn cases_run_without_a_database_a_cache_or_a_secret() {
    let (code, out, err) = run(&with_case("['user:1', 'mail:a', 'mail:b']"), &[]);
    assert_eq!((code, out.as_str(), err.as_str()), (Some(0), "1 passed, 0 failed\n", ""));
}

#[test]
fn a_failure_is_one_and_says_what_differs_in_every_format() {
    let wrong = with_case("['user:1', 'mail:a', 'mail:c']");
    let (code, out, _) = run(&wrong, &[]);
    assert_eq!(code, Some(1));
    assert!(out.contains("tests[0] moves failed") && out.ends_with("0 passed, 1 failed\n"), "{out}");
    let row = |left: &str| out.lines().find(|line| line.trim_start().starts_with(left)).unwrap().to_owned();
    assert!(row("mail:c").ends_with("  -"), "{out}");
    assert!(row("-").contains("mail:b") && row("-").ends_with("rules[0] public.users \"mail:{email|lower}\""), "{out}");
    let (code, out, _) = run(&wrong, &["--format", "json"]);
    let told: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &told["failed"], &told["tests"][0]["passed"]), (Some(1), &1.into(), &false.into()));
    assert_eq!(told["tests"][0]["invalidated"]["keys"][1]["key"], "mail:b");
    let (code, out, _) = run(&wrong, &["--format", "junit"]);
    assert_eq!(code, Some(1));
    assert!(
        out.contains("<testsuite name=\"coherd\" tests=\"1\" failures=\"1\">") && out.contains("<failure"),
        "{out}"
    );
}

#[test]
fn what_cannot_be_read_is_seventy_eight_with_its_place() {
    for (text, said) in [
        (HEAD.to_owned(), "c.yaml:1:1: tests: there is no test"),
        (with_case("[]").replace("update:", "updat:"), "tests[0].updat: unknown field `updat`, did you mean `update`?"),
        (
            with_case("[]").replace("old: {id: 1, email: A}", "old: {email: A}"),
            "c.yaml:6:56: tests[0].new: rules[0] public.users reads column \"id\"",
        ),
        (with_case("[]").replace("'user:{id}'", "'user:{id'"), "rules[0].keys: key template \"user:{id\""),
    ] {
        let (code, out, err) = run(&text, &[]);
        assert_eq!((code, out.as_str()), (Some(78), ""), "{err}");
        assert!(err.contains(said), "{said}\nis not in\n{err}");
    }
    assert_eq!(coherd_test(Path::new("/no/such.yaml"), &[]).status.code(), Some(78));
}

#[test]
fn the_cases_that_are_shown_pass() {
    let shipped = coherd_test(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/config/coherd.yaml")), &[]);
    assert_eq!(shipped.status.code(), Some(0), "{}", String::from_utf8_lossy(&shipped.stdout));
    let shown: Vec<&str> = blocks_of(RULES, "yaml").into_iter().filter(|block| block.contains("tests:")).collect();
    assert!(!shown.is_empty());
    for block in shown {
        let (code, out, err) = run(block, &[]);
        assert_eq!(code, Some(0), "{block}\n{out}{err}");
    }
}

/// The contract is 50 ms for a release build. A build for tests is about ten times slower, and the machine is shared.
#[test]
fn a_thousand_cases_take_no_time() {
    let mut text = format!("{HEAD}tests:\n");
    for number in 0..1000 {
        let _ = writeln!(
            text,
            "  - {{name: n{number}, update: users, old: {{id: {number}, email: A}}, new: {{email: b}}, expect: ['user:{number}', 'mail:a', 'mail:b']}}"
        );
    }
    let began = Instant::now();
    let (code, out, err) = run(&text, &[]);
    let took = began.elapsed();
    assert_eq!((code, out.as_str()), (Some(0), "1000 passed, 0 failed\n"), "{err}");
    println!("1,000 cases: {took:?}");
    let most = if cfg!(debug_assertions) { Duration::from_secs(2) } else { Duration::from_millis(50) };
    assert!(took < most, "{took:?}");
}
