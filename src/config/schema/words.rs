//! Descriptions of the keys, from the comments above them in the shipped configuration, for editors and for the manual.

use std::collections::HashMap;

/// The shipped configuration, with every key and a comment for each.
const SHIPPED: &str = include_str!("../../../config/coherd.yaml");

/// The description of one key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// The comment above it, on one line.
    pub(super) about: String,
    /// Its value in the shipped file, as YAML; empty for a section.
    pub(super) example: String,
}

/// The descriptions by path: `source.dsn`, `targets.NAME.url`, `rules[].keys`. `is_key` tells a key that is commented
/// out from other text with a colon.
pub(super) fn said(is_key: impl Fn(&str) -> bool) -> HashMap<String, Said> {
    let mut found = HashMap::new();
    let (mut section, mut comment) = (String::new(), Vec::new());
    for line in SHIPPED.lines() {
        let bare = line.trim_start();
        if bare.is_empty() {
            comment.clear();
            continue;
        }
        let indent = line.len() - bare.len();
        let (text, is_comment) = bare.strip_prefix('#').map_or((bare, false), |text| (text.trim(), true));
        let entry = text.trim_start_matches("- ").split_once(':').map(|(key, value)| {
            let path = if indent == 0 { key.to_owned() } else { path(&section, indent, key) };
            (path, key, value.trim())
        });
        match entry {
            Some((path, key, value)) if !is_comment || is_key(&path) => {
                if indent == 0 && !is_comment {
                    key.clone_into(&mut section);
                }
                let said = Said { about: comment.join(" "), example: value.to_owned() };
                comment.clear();
                // The second and third rules only add the keys that the first does not have.
                found.entry(path).or_insert(said);
            }
            _ => comment.push(text),
        }
    }
    found
}

/// The path of `key`, indented by `indent` columns in `section`.
fn path(section: &str, indent: usize, key: &str) -> String {
    match section {
        "targets" if indent == 2 => "targets.NAME".to_owned(),
        "targets" => format!("targets.NAME.{key}"),
        "rules" => format!("rules[].{key}"),
        "tests" => format!("tests[].{key}"),
        _ => format!("{section}.{key}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_the_comment_above_it_and_the_value_beside_it() {
        let said = said(|path| path == "source.dsn_file");
        let of = |path: &str| said.get(path).cloned().unwrap_or_default();
        assert_eq!(of("source.slot").example, "coherd");
        assert_eq!(of("source.slot").about, "The replication slot: 1 to 63 characters from a-z, 0-9 and _.");
        assert_eq!(of("source.dsn_file").example, "/run/secrets/coherd-dsn");
        assert!(of("rules[].table").about.starts_with("schema.table, quoted"), "{:?}", of("rules[].table"));
        assert!(of("targets.NAME.url").about.starts_with("The scheme names the kind"));
        assert_eq!(of("on_gap").example, "flush");
    }
}
