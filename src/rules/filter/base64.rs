//! `base64`: RFC 4648, with the alphabet of section 4, or of section 5 for URLs.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};

use super::{Apply, Filter, Kind};

pub(super) const BASE64: Filter = Filter {
    name: "base64",
    argument: "url|url-padded",
    about: "base64 of the bytes (RFC 4648); url: its alphabet for URLs, without =; url-padded: the same with =",
    kind: Kind::Argued(prepare),
};

fn prepare(argument: Option<&str>) -> Result<Arc<Apply>, String> {
    let engine: &'static GeneralPurpose = match argument {
        None => &STANDARD,
        Some("url") => &URL_SAFE_NO_PAD,
        Some("url-padded") => &URL_SAFE,
        Some(other) => return Err(format!("base64 has no variant {other:?}; known: url, url-padded")),
    };
    Ok(Arc::new(move |input, out| {
        let begin = out.len();
        let Some(length) = base64::encoded_len(input.len(), true) else { return false };
        out.resize(begin + length, 0);
        let room = out.get_mut(begin..).unwrap_or_default();
        let Ok(written) = engine.encode_slice(input, room) else { return false };
        out.truncate(begin + written);
        true
    }))
}

#[cfg(test)]
mod tests {
    use crate::rules::filter::tests::{error, filtered};

    #[test]
    fn alphabets_and_padding() {
        for (written, expected) in [("base64", "+/8="), ("base64:url", "-_8"), ("base64:url-padded", "-_8=")] {
            assert_eq!(filtered(written, b"\xfb\xff").unwrap(), expected.as_bytes(), "{written}");
            assert_eq!(filtered(written, b"").unwrap(), b"");
        }
        assert_eq!(error("base64", Some("hex")), "base64 has no variant \"hex\"; known: url, url-padded");
    }
}
