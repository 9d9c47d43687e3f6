//! Checks the files, names and links that documents mention. Needs no server.

use std::process::Command;

use super::{INSTALL, READING, README, blocks, blocks_of};
use crate::support::daemon::{coherd, text};

#[test]
fn the_readmes_configuration_is_the_minimal_one() {
    assert_eq!(blocks("yaml"), [include_str!("../../config/minimal.yaml")]);
}

#[test]
fn every_command_that_the_readme_names_exists() {
    let help = text(&Command::new(coherd()).arg("--help").output().unwrap());
    for part in README.split("`coherd ").skip(1) {
        let command = part.split([' ', '`']).next().unwrap();
        assert!(help.contains(&format!("  {command} ")), "coherd {command}: not in\n{help}");
    }
    let makefile = include_str!("../../Makefile");
    for part in README.split("\nmake ").skip(1) {
        let target = part.split_whitespace().next().unwrap();
        assert!(makefile.contains(&format!("\n{target}:")), "make {target}");
    }
}

#[test]
fn the_readme_lists_every_metric() {
    let source = include_str!("../../src/admin/metrics.rs");
    let names = source.lines().filter_map(|line| line.strip_prefix("/// `coherd_")?.split(['{', '`']).next());
    let names: Vec<&str> = names.collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        assert!(README.contains(&format!("`{name}`")), "coherd_{name} is missing in the README");
    }
}

const ARCHITECTURE: &str = include_str!("../../ARCHITECTURE.md");

/// The pages that ARCHITECTURE.md links to.
const PAGES: [&str; 7] = [
    include_str!("../../docs/architecture/core.md"),
    include_str!("../../docs/architecture/decisions.md"),
    include_str!("../../docs/architecture/hostile.md"),
    include_str!("../../docs/architecture/postgres.md"),
    include_str!("../../docs/architecture/readers.md"),
    include_str!("../../docs/architecture/record.md"),
    include_str!("../../docs/architecture/speed.md"),
];

#[test]
fn architecture_names_files_and_modules_that_are_there() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let is_path = |name: &&str| ["tests/", "src/", "postgres/"].iter().any(|begin| name.starts_with(begin));
    let contributing = include_str!("../../CONTRIBUTING.md");
    for text in PAGES.into_iter().chain([ARCHITECTURE, contributing]) {
        for name in text.split('`').skip(1).step_by(2).filter(is_path) {
            let is_there = root.join(name).exists() || root.join("src").join(name).exists();
            assert!(is_there, "{name} is in the documentation and not there");
        }
    }
    let modules =
        include_str!("../../src/lib.rs").lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    for module in modules {
        assert!(ARCHITECTURE.contains(&format!("`{module}`")), "{module} is missing in ARCHITECTURE.md's house");
    }
}

#[test]
fn the_rules_reference_lists_every_filter_and_contributing_shows_one_whole() {
    let rules = include_str!("../../docs/rules.md");
    for filter in coherd::rules::filter::FILTERS {
        // A bar would end the cell of a table.
        let row = format!("| `{}` | {} |", filter.written().replace('|', "\\|"), filter.about);
        assert!(rules.contains(&row), "{row} is not in docs/rules.md");
    }
    let contributing = include_str!("../../CONTRIBUTING.md");
    assert_eq!(blocks_of(contributing, "rust"), [include_str!("../../src/rules/filter/trim.rs")]);
}

#[test]
fn the_promises_stand_in_the_readme_in_the_same_words() {
    let is_promise =
        |line: &&str| ["1. **", "2. **", "3. **", "4. **", "5. **", "6. **"].iter().any(|n| line.starts_with(n));
    let promises: Vec<&str> = ARCHITECTURE.lines().filter(is_promise).collect();
    assert_eq!(promises.len(), 6);
    for promise in promises {
        assert!(README.contains(promise), "{promise}");
    }
}

#[test]
fn every_file_and_heading_that_a_document_links_to_is_there() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut links = 0;
    let fixes = include_str!("../../docs/manual-fixes.md");
    let rules = include_str!("../../docs/rules.md");
    let changes = include_str!("../../CHANGELOG.md");
    let guides = [READING, INSTALL, fixes, rules].map(|text| ("docs", text));
    let [contributing, security] = [include_str!("../../CONTRIBUTING.md"), include_str!("../../SECURITY.md")];
    let pages = [README, ARCHITECTURE, changes, contributing, security].map(|text| ("", text));
    let pages = pages.into_iter().chain(PAGES.map(|text| ("docs/architecture", text)));
    for (folder, text) in guides.into_iter().chain(pages) {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") {
                continue;
            }
            links += 1;
            let Some(heading) = link.strip_prefix('#') else {
                assert!(root.join(folder).join(link).exists(), "{link} is not there");
                continue;
            };
            let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| {
                let words = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
                words.replace(|c: char| !c.is_alphanumeric() && c != '-', "")
            });
            assert!(headings.into_iter().any(|it| it == heading), "no heading {heading}");
        }
    }
    assert!(links > 10, "{links}");
}

#[test]
fn the_guides_code_is_the_examples() {
    let example = include_str!("../../docs/examples/python/reader.py");
    let blocks = blocks_of(READING, "python");
    assert_eq!(blocks.len(), 3);
    for block in blocks {
        assert!(example.contains(block), "{block}\nis not in docs/examples/python/reader.py");
    }
}
