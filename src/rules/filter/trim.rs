//! `trim`: removes ASCII white space at both ends.

use super::Filter;

pub(super) const TRIM: Filter = Filter::plain("trim", "without the white space at both ends (ASCII)", |input, out| {
    out.extend_from_slice(input.trim_ascii());
});
