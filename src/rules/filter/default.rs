//! `default`: a text for NULL, which without it means that there is no such key.

use super::{Filter, Kind};

pub(super) const DEFAULT: Filter = Filter {
    name: "default",
    argument: "TEXT",
    about: "TEXT in place of NULL; without it, a row whose value is NULL has no such key",
    kind: Kind::Default,
};

#[cfg(test)]
mod tests {
    use crate::rules::filter::find;
    use crate::rules::filter::tests::error;

    #[test]
    fn only_null_is_replaced_and_the_text_may_be_empty() {
        for given in ["none", "", " a:b "] {
            let prepared = find("default").unwrap().prepare(Some(given)).unwrap();
            assert_eq!(prepared.for_null(), Some(given));
        }
        assert_eq!(find("lower").unwrap().prepare(None).unwrap().for_null(), None);
        assert_eq!(error("default", None), "default needs the text for NULL: default:none");
    }
}
