//! The rules: which keys a changed row has, and whether the database can feed them.

pub mod audit;
pub mod binding;
#[cfg(test)]
mod binding_tests;
pub mod case;
pub mod config;
#[cfg(test)]
mod construct_tests;
pub mod cover;
pub mod filter;
pub mod heirs;
pub mod identity;
pub mod name;
pub mod named;
pub mod overlap;
pub mod predicate;
pub mod publish;
pub mod reading;
mod rendering;
pub mod shape;
pub mod template;
pub mod text_form;
pub mod value;

/// The known name nearest to a mistyped one, if one is near enough.
pub fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |name: &&str| strsim::damerau_levenshtein(&wrong.to_lowercase(), &name.to_lowercase());
    known.into_iter().min_by_key(distance).filter(|name| distance(name) <= 1 + wrong.len().min(name.len()) / 3)
}
