//! The house rules that a compiler does not see: which way imports point, and how long a file or a function may be.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

/// The layers, top to bottom, as ARCHITECTURE.md lists them. A file imports from its own module and from modules in
/// rows above; within a row from those before it, except that postgres, targets and rules never see one another.
const LAYERS: &[&[&str]] = &[
    &["types"],
    &["pgoutput", "rules", "transaction", "core", "backoff"],
    &["tls", "postgres", "targets", "admin"],
    &["runtime"],
    &["config", "cli"],
];

const STRANGERS: &[&str] = &["postgres", "targets", "rules"];

#[test]
fn imports_point_only_to_layers_above() {
    let mut wrong = Vec::new();
    for file in rust_files("src") {
        let Some(module) = module_of(&file) else { continue };
        let text = std::fs::read_to_string(&file).unwrap();
        for imported in imports(&text) {
            if imported != module && !may_import(&module, &imported) {
                wrong.push(format!("{}: {module} imports {imported}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "imports against the flow:\n{}", wrong.join("\n"));
}

#[test]
fn every_module_has_its_place_in_the_layers() {
    for file in rust_files("src") {
        if let Some(module) = module_of(&file) {
            assert!(place(&module).is_some(), "{module} is in no layer: give it a place in tests/tidy.rs");
        }
    }
}

/// Whoever pastes a statement that is printed runs it with rights of their own, and under a search path in which the owner
/// of the database may have put functions and relations of these names first.
#[test]
fn every_statement_that_may_be_printed_says_whose_functions_it_means() {
    let mut bare = Vec::new();
    let guides = ["docs/manual-fixes.md", "docs/install.md", "docs/check.md", "README.md", "packaging/debian/prerm"];
    for file in rust_files("src").into_iter().chain(guides.map(|guide| root().join(guide))) {
        for (number, line) in std::fs::read_to_string(&file).unwrap().lines().enumerate() {
            if names_catalogue_barely(line) {
                bare.push(format!("{}:{}: {line}", file.display(), number + 1));
            }
        }
    }
    assert!(bare.is_empty(), "without pg_catalog:\n{}", bare.join("\n"));
}

fn names_catalogue_barely(line: &str) -> bool {
    ["SELECT ", "FROM ", "JOIN "].iter().any(|word| {
        let after = line.split(word).skip(1);
        after.into_iter().any(|rest| rest.starts_with("pg_") && !rest.starts_with("pg_catalog."))
    })
}

#[test]
fn files_and_functions_are_short() {
    let mut long = Vec::new();
    for file in ["src", "tests", "benches", "examples", "fuzz"].iter().flat_map(|dir| rust_files(dir)) {
        let text = std::fs::read_to_string(&file).unwrap();
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            long.push(format!("{}: {lines} lines, at most {FILE_LINES_MAX}", file.display()));
        }
        for (line, length) in functions(&text).into_iter().filter(|(_, length)| *length > FUNCTION_LINES_MAX) {
            long.push(format!("{}:{line}: a function of {length} lines, at most {FUNCTION_LINES_MAX}", file.display()));
        }
    }
    assert!(long.is_empty(), "too long:\n{}", long.join("\n"));
}

/// Lines of code that a module may have, tests, comments and blank lines left out: who wants to explain something has room
/// for it.
const MODULE_LINES_MAX: &[(&str, usize)] = &[
    ("core", 3500),
    ("runtime", 1200),
    // What `check` asks of it is in there too.
    ("postgres", 6400),
    ("targets/redis", 4500),
    ("rules", 5000),
    ("config", 2000),
    ("cli", 5500),
    ("admin", 3500),
];

const METHODS_MAX: usize = 25;
const FIELDS_MAX: usize = 12;

/// Types that have more methods or fields, and why.
const LARGE_TYPES: &[(&str, &str)] = &[
    ("core::Core", "one method for each input, and for each question that the runtime and the model ask"),
    ("core::TargetState", "what may happen to one target; its queue, record, pace and halt are types of their own"),
    ("core::Queue", "the ways in and out of each place in which an invalidation may be"),
    ("runtime::Pipeline", "the ends of every channel of the one loop"),
    ("admin::Board", "one method for each thing that is shown"),
    ("admin::Inner", "one field for each metric that is not kept in the status"),
    ("admin::Status", "one field for each thing that is shown"),
    ("admin::TargetStatus", "one field for each thing that is shown of a target"),
    ("admin::View", "the fields of /status, as they are documented"),
    ("types::Database", "the answers of one look at a server"),
    ("types::Server", "the settings of a server, as it names them"),
    ("types::Table", "what the catalogue says of a table"),
    ("rules::Demand", "one question for each thing that a rule needs of a column"),
    ("postgres::Dsn", "the parameters of libpq that are known here"),
    ("postgres::PostgresStream", "one connection, its positions and its buffers"),
    ("targets::Redis", "one target's configuration, bound to its connection"),
    ("targets::TargetConfig", "the configuration of a target, as it is documented"),
    ("targets::Worker", "one task's channels, its deliveries in flight and its patience"),
    ("config::TargetSettings", "the configuration of a target, as it is documented"),
    ("transaction::Reader", "the rules, bound, and the transaction that is being read"),
];

#[test]
fn modules_and_types_are_small() {
    let mut large = Vec::new();
    for (module, most) in MODULE_LINES_MAX {
        let lines: usize = code_of(module).iter().map(|code| code.lines().count()).sum();
        if lines == 0 || lines > *most {
            large.push(format!("src/{module}: {lines} lines of code, at most {most}"));
        }
    }
    let mut seen = BTreeMap::<String, (usize, usize)>::new();
    for file in rust_files("src") {
        let Some(module) = module_of(&file).filter(|_| !is_test(&file)) else { continue };
        for (name, methods, fields) in types(&code(&std::fs::read_to_string(&file).unwrap())) {
            let its = seen.entry(format!("{module}::{name}")).or_default();
            // Each file may have one of that name.
            *its = (its.0 + methods, its.1.max(fields));
        }
    }
    for (name, (methods, fields)) in &seen {
        let is_large = *methods > METHODS_MAX || *fields > FIELDS_MAX;
        match (is_large, LARGE_TYPES.iter().any(|(large, _)| large == name)) {
            (true, false) => large.push(format!("{name}: {methods} methods, {fields} fields")),
            (false, true) => large.push(format!("{name}: not large any more, take it off the list")),
            _ => {}
        }
    }
    assert!(large.is_empty(), "at most {METHODS_MAX} methods and {FIELDS_MAX} fields a type:\n{}", large.join("\n"));
}

/// The code of every file of a module, which is a folder, a file or both.
fn code_of(module: &str) -> Vec<String> {
    let single = root().join("src").join(format!("{module}.rs"));
    let files = rust_files(&format!("src/{module}")).into_iter().chain(single.exists().then_some(single));
    files.filter(|file| !is_test(file)).map(|file| code(&std::fs::read_to_string(file).unwrap())).collect()
}

fn is_test(file: &Path) -> bool {
    let name = file.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    name == "tests" || name.ends_with("_tests") || file.parent().is_some_and(|dir| dir.ends_with("tests"))
}

/// A file without its tests, comments and blank lines.
fn code(text: &str) -> String {
    let text = match text.find("#[cfg(test)]\nmod tests {") {
        Some(tests) => &text[..tests],
        None => text,
    };
    let text = text.replace("#[cfg(test)]\nmod tests;\n", "");
    let is_code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with("//");
    text.lines().filter(is_code).collect::<Vec<_>>().join("\n")
}

/// The name of each type in the code of a file, with the methods of its own and the fields that stand there.
fn types(code: &str) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    let lines: Vec<&str> = code.lines().collect();
    for (number, line) in lines.iter().enumerate() {
        let body = || lines[number + 1..].iter().take_while(|line| **line != "}");
        let words: Vec<&str> = line.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
        if line.starts_with("impl") && !line.contains(" for ") {
            let generics = line.strip_prefix("impl<").map_or(0, |rest| rest.find("> ").unwrap_or(0) + 6);
            let name = line[generics..].trim_start_matches("impl").trim_start_matches([' ', '>']);
            let name: String = name.chars().take_while(|c| c.is_alphanumeric()).collect();
            let methods = body().filter(|line| line.starts_with("    ") && !line.starts_with("     ")).filter(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                let before = words.iter().take_while(|word| **word != "fn");
                words.contains(&"fn")
                    && before.clone().all(|w| w.starts_with("pub") || ["async", "const", "in"].contains(w))
            });
            found.push((name, methods.count(), 0));
        } else if let (Some(at), true) = (words.iter().position(|word| *word == "struct"), line.ends_with('{'))
            && !line.starts_with(' ')
        {
            let is_field = |line: &&&str| line.starts_with("    ") && !line.starts_with("     ") && line.contains(": ");
            let fields = body().filter(is_field).filter(|line| !line.trim_start().starts_with('#'));
            found.push((words[at + 1].to_owned(), 0, fields.count()));
        }
    }
    found
}

/// Words that had a meaning of their own here, and have given way to the field's; see docs/glossary.md. They may stand in
/// texts that name old fields, not in names.
const RETIRED: &[&str] = &[
    "strike",
    "strikes",
    "struck",
    "echo",
    "echoes",
    "sight",
    "sights",
    "sighted",
    "lane",
    "lanes",
    "courier",
    "pile",
    "piles",
    "recollection",
    "recall",
    "recalled",
    "judge",
    "judged",
    "judging",
    "stance",
    "vouch",
    "vouched",
    "heal",
    "heals",
    "healing",
    "mend",
    "mends",
    "mended",
    "mending",
    "given_up",
    "by_hand",
];

#[test]
fn no_name_has_a_retired_word_in_it() {
    let mut found = Vec::new();
    for file in ["src", "tests", "benches", "examples", "fuzz"].iter().flat_map(|dir| rust_files(dir)) {
        let text = std::fs::read_to_string(&file).unwrap();
        for name in names(&text).into_iter().filter(|name| has_retired_word(name)) {
            found.push(format!("{}: {name}", file.display()));
        }
    }
    assert!(found.is_empty(), "docs/glossary.md has other words for these:\n{}", found.join("\n"));
}

fn has_retired_word(name: &str) -> bool {
    let mut words = String::from("_");
    let mut before = '_';
    for character in name.chars() {
        if character.is_uppercase() && before.is_lowercase() {
            words.push('_');
        }
        words.extend(character.to_lowercase());
        before = character;
    }
    words.push('_');
    RETIRED.iter().any(|word| words.contains(&format!("_{word}_")))
}

/// Every name in the code of a file; comments and texts left out.
fn names(text: &str) -> Vec<String> {
    // A comment ends with its line, and a text at the next quotation mark that is none of its own.
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    let code = text.lines().filter(is_code).collect::<Vec<_>>().join("\n").replace("\\\\", "").replace("\\\"", "");
    let mut names = Vec::new();
    for outside in code.replace("'\"'", "' '").split('"').step_by(2) {
        let outside: String = outside.lines().filter_map(|line| line.split("//").next()).collect::<Vec<_>>().join("\n");
        let words = outside.split(|character: char| !character.is_alphanumeric() && character != '_');
        names.extend(words.filter(|word| !word.is_empty()).map(str::to_owned));
    }
    names.sort_unstable();
    names.dedup();
    names
}

#[test]
fn the_checks_themselves_can_fail() {
    assert!(
        !may_import("pgoutput", "postgres") && !may_import("postgres", "targets") && !may_import("rules", "targets")
    );
    assert!(may_import("runtime", "postgres") && may_import("cli", "types") && may_import("core", "types"));
    assert!(rust_files("src").contains(&root().join("src/targets/delivery.rs")), "nothing of ours is left out");
    assert_eq!(imports("use crate::types::lsn::Lsn;\nlet x = crate::targets::open();"), ["types", "targets"]);
    let function = format!("fn a() {{\n{}}}\n    fn b() {{}}\n", "    x();\n".repeat(80));
    assert_eq!(functions(&function), [(1, 82), (83, 1)]);
    let text = "/// A.\nstruct A<T> {\n    /// B.\n    b: u8,\n\n    pub c: T,\n}\nimpl<T: X> A<T> {\n    pub(super) const fn a() {}\n\n    fn b() {\n        fn c() {}\n    }\n}\nimpl X for A {\n    fn c() {}\n}\n#[cfg(test)]\nmod tests {\n}\n";
    assert_eq!(types(&code(text)), [("A".to_owned(), 0, 2), ("A".to_owned(), 2, 0)]);
    assert!(has_retired_word("struck_at") && has_retired_word("StrikeKey") && has_retired_word("GIVEN_UP"));
    assert!(!has_retired_word("by_handle") && !has_retired_word("Plane") && !has_retired_word("recalling"));
    assert_eq!(names("let a = \"lane\"; // sight\nb()"), ["a", "b", "let"]);
    assert!(names_catalogue_barely("it says SELECT pg_reload_conf();") && names_catalogue_barely("a FROM pg_proc p"));
    assert!(!names_catalogue_barely("SELECT pg_catalog.pg_reload_conf(), relname FROM pg_catalog.pg_class"));
}

fn may_import(module: &str, imported: &str) -> bool {
    if STRANGERS.contains(&module) && STRANGERS.contains(&imported) {
        return false;
    }
    // `main.rs` and unknown names are judged by the test above.
    place(imported).zip(place(module)).is_none_or(|(from, to)| from < to)
}

fn place(module: &str) -> Option<(usize, usize)> {
    let in_row = |row: &&[&str]| row.iter().position(|name| *name == module);
    LAYERS.iter().enumerate().find_map(|(number, row)| Some((number, in_row(row)?)))
}

/// The module directly below `src` that a file belongs to; `None` for `lib.rs` and `main.rs`.
fn module_of(file: &Path) -> Option<String> {
    let first = file.strip_prefix(root().join("src")).ok()?.components().next()?;
    let name = Path::new(first.as_os_str()).file_stem()?.to_str()?;
    let name = name.strip_suffix("_tests").unwrap_or(name);
    (!["lib", "main"].contains(&name)).then(|| name.to_owned())
}

fn imports(text: &str) -> Vec<String> {
    let after = text.split("crate::").skip(1);
    after.map(|rest| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()).collect()
}

/// Line number and length of every function, by rustfmt's indentation.
fn functions(text: &str) -> Vec<(usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let indent = &line[..line.len() - code.len()];
        let words: Vec<&str> = code.split_whitespace().take(5).take_while(|word| *word != "fn").collect();
        let is_function = code.split_whitespace().nth(words.len()) == Some("fn")
            && words.iter().all(|w| w.starts_with("pub") || ["async", "const", "in"].contains(w));
        if !is_function {
            continue;
        }
        let end = format!("{indent}}}");
        let one_line = code.ends_with('}') || code.ends_with(';');
        let length = if one_line { Some(0) } else { lines[number..].iter().position(|line| *line == end) };
        found.push((number + 1, length.map_or(1, |length| length + 1)));
    }
    found
}

fn rust_files(dir: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut dirs = vec![root().join(dir)];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            // What cargo builds; `src/targets` is ours.
            if path.is_dir() && !path.ends_with("fuzz/target") {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
