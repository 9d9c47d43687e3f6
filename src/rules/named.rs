//! Which rules a manually invalidated key belongs to.

use super::config::Rule;
use crate::types::pattern::Extent;

/// For each rule, in order, its scopes other than those of its own templates.
#[derive(Debug)]
pub struct Cover(Vec<Vec<Extent>>);

impl Cover {
    /// Computes the scopes of `rules`. Every call of [`Cover::rules`] must pass the same rules.
    pub fn new(rules: &[Rule]) -> Cover {
        let given = |rule: &Rule| {
            let own: Vec<String> = rule.keys.iter().map(super::template::Template::scope_pattern).collect();
            let given = rule.scopes.iter().filter(|scope| !own.contains(&scope.keys.to_string()));
            given.map(|scope| scope.keys.clone()).collect()
        };
        Cover(rules.iter().map(given).collect())
    }

    /// The rules that have a template that could make `key`, or a scope that covers it. A template without literal text
    /// could make any key, so for such a template only the scope counts.
    pub fn rules<'r>(&'r self, rules: &'r [Rule], key: &'r [u8]) -> impl Iterator<Item = &'r Rule> {
        let covers = move |(rule, scopes): &(&Rule, &Vec<Extent>)| {
            rule.keys.iter().any(|template| template.has_literal() && template.could_make(key))
                || scopes.iter().any(|scope| scope.covers(key))
        };
        rules.iter().zip(&self.0).filter(covers).map(|(rule, _)| rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::config::{RawRule, resolve};

    #[test]
    fn a_key_belongs_to_rules_that_could_make_it_and_to_rules_whose_scope_covers_it() {
        let raw = [
            RawRule::of("users", &["user:{id}", "user:by-email:{email|lower}"]),
            RawRule { scope: Some("order*".into()), ..RawRule::of("orders", &["order:{id}"]) },
        ];
        let rules = resolve(&raw, &["cache".into()]).unwrap();
        let cover = Cover::new(&rules);
        let of = |key: &str| -> Vec<u16> { cover.rules(&rules, key.as_bytes()).map(|rule| rule.id.0).collect() };
        assert_eq!((of("user:1"), of("orders"), of("order:1:lines")), (vec![0], vec![1], vec![1]));
        let rules = &rules[..1];
        let of = |key: &str| Cover::new(rules).rules(rules, key.as_bytes()).count();
        assert_eq!(["user:1", "user:by-email:a@b", "session:alice", "auser:1"].map(of), [1, 1, 0, 0]);
    }
}
