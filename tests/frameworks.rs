//! The keys that frameworks wrote to Redis (`tests/frameworks/keys.tsv`): the templates beside them must give the same bytes.

use std::collections::BTreeMap;

use coherd::rules::case::{RawCase, RawValue, resolve};
use coherd::rules::config::{RawRule, resolve as resolve_rules};

const KEYS: &str = include_str!("frameworks/keys.tsv");

#[test]
fn every_key_that_a_framework_wrote_is_the_key_of_its_template() {
    let mut lines = KEYS.lines();
    assert_eq!(lines.next(), Some("framework\tversion\twhat\ttemplate\thash\trow\tkey"));
    let mut count = 0;
    for line in lines {
        let [_, _, _, template, hash, row, key] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let hash = (!hash.is_empty()).then(|| serde_yaml::from_str(hash).unwrap());
        // A template may consist of a placeholder alone; then it needs a scope.
        let rule = RawRule { hash, scope: Some("*".into()), ..RawRule::of("t", &[template]) };
        let rules = resolve_rules(&[rule], &["cache".into()]).unwrap_or_else(|errors| panic!("{line}: {errors:?}"));
        // `null` is a row of which the template reads nothing; an INSERT needs some column.
        let row: Option<BTreeMap<String, Option<String>>> = serde_json::from_str(row).unwrap();
        let row = row.unwrap_or_else(|| [("id".to_owned(), Some("7".to_owned()))].into());
        let value = |value: Option<String>| value.map_or(RawValue::Null, RawValue::Text);
        let new = row.into_iter().map(|(column, text)| (column, value(text))).collect();
        let case =
            RawCase { insert: Some("t".into()), new: Some(new), expect: vec![key.to_owned()], ..RawCase::default() };
        let outcome = resolve(&case, &rules).unwrap_or_else(|wrong| panic!("{line}: {wrong:?}")).run(&rules);
        assert!(outcome.passed(), "{line}\n{outcome:?}");
        count += 1;
    }
    assert!(count > 70, "{count}");
}
