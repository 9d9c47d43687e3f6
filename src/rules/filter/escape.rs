//! `hex` and `urlencode`: bytes of any value as ASCII text.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use super::Filter;

pub(super) const HEX: Filter = Filter::plain("hex", "every byte as two lower-case hexadecimal digits", push_hex);

pub(super) const URLENCODE: Filter = Filter::plain(
    "urlencode",
    "percent-encoding; letters, digits and -_.~ stay (RFC 3986, unreserved)",
    |input, out| percent_encode(input, RESERVED).for_each(|part| out.extend_from_slice(part.as_bytes())),
);

const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

pub(super) fn push_hex(input: &[u8], out: &mut Vec<u8>) {
    let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
    out.extend(input.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]));
}
