//! Compares numbers by their decimal digits, exactly and without a limit of size.

use std::cmp::Ordering;

/// A number, taken apart.
struct Decimal<'a> {
    is_negative: bool,
    /// Without zeros on the left.
    whole: &'a [u8],
    /// Without zeros on the right.
    fraction: &'a [u8],
}

/// How two decimal numbers compare. `None` if one of them has another form: `NaN`, `Infinity`, an exponent.
pub fn compare(one: &[u8], other: &[u8]) -> Option<Ordering> {
    let (one, other) = (read(one)?, read(other)?);
    let size = |its: &Decimal<'_>, theirs: &Decimal<'_>| {
        let whole = its.whole.len().cmp(&theirs.whole.len()).then_with(|| its.whole.cmp(theirs.whole));
        whole.then_with(|| its.fraction.cmp(theirs.fraction))
    };
    Some(match (one.is_negative, other.is_negative) {
        (false, false) => size(&one, &other),
        (true, true) => size(&other, &one),
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
    })
}

/// Whether this is a number that [`compare`] reads.
pub fn is_decimal(text: &[u8]) -> bool {
    read(text).is_some()
}

fn read(text: &[u8]) -> Option<Decimal<'_>> {
    let (signed, digits) = match text.split_first()? {
        (b'-', rest) => (true, rest),
        (b'+', rest) => (false, rest),
        _ => (false, text),
    };
    let point = digits.iter().position(|byte| *byte == b'.');
    let (whole, fraction) = match point {
        None => (digits, &b""[..]),
        Some(at) => (digits.get(..at)?, digits.get(at + 1..)?),
    };
    let all_digits = |part: &[u8]| part.iter().all(u8::is_ascii_digit);
    if (whole.is_empty() && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    let zeros = whole.iter().take_while(|byte| **byte == b'0').count();
    let whole = whole.get(zeros..)?;
    let zeros = fraction.iter().rev().take_while(|byte| **byte == b'0').count();
    let fraction = fraction.get(..fraction.len() - zeros)?;
    let is_zero = whole.is_empty() && fraction.is_empty();
    Some(Decimal { is_negative: signed && !is_zero, whole, fraction })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_compare_as_numbers() {
        let ascending =
            ["-100000000000000000000", "-10", "-9.5", "-9.25", "-0.1", "0", "0.1", "0.25", "9", "10", "10.01"];
        for (i, one) in ascending.iter().enumerate() {
            for (j, other) in ascending.iter().enumerate() {
                assert_eq!(compare(one.as_bytes(), other.as_bytes()), Some(i.cmp(&j)), "{one} {other}");
            }
        }
        for (one, other) in [("1", "1.000"), ("-0", "0.0"), ("007", "7"), ("+3", "3"), (".5", "0.50"), ("5.", "5")] {
            assert_eq!(compare(one.as_bytes(), other.as_bytes()), Some(Ordering::Equal), "{one} {other}");
        }
        for odd in ["", "-", ".", "NaN", "Infinity", "1e20", "1 ", "0x1", "1.2.3"] {
            assert_eq!(compare(odd.as_bytes(), b"1"), None, "{odd}");
        }
    }
}
