//! Positions in the write-ahead log.

use std::fmt;
use std::str::FromStr;

/// A position in the write-ahead log: a byte offset, as Postgres's `pg_lsn`.
///
/// Printed as Postgres prints it (`16/B374D848`); parsed from that form or from an unsigned decimal.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(u64);

impl Lsn {
    /// `0/0`, at which no log record is.
    pub const ZERO: Lsn = Lsn(0);

    /// The highest value.
    pub const MAX: Lsn = Lsn(u64::MAX);

    /// A lower bound of every position in a server's log: the log begins with the second segment, and the smallest
    /// segment size is 1 MiB. A lower number is a mistake, such as a timeout in seconds given as a position.
    pub const LEAST: Lsn = Lsn(1 << 20);

    /// The position at byte `offset` of the log.
    pub const fn new(offset: u64) -> Self {
        Lsn(offset)
    }

    /// The byte offset.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Bytes from `earlier` to this position; 0 if `earlier` is later.
    pub const fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not an LSN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{got:?} is not an LSN: give it as Postgres prints it (16/B374D848) or as an unsigned decimal (97500059720)")]
pub struct ParseLsnError {
    got: String,
}

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map(Lsn).ok_or_else(|| ParseLsnError { got: text.chars().take(40).collect() })
    }
}

fn parse(text: &str) -> Option<u64> {
    // `from_str_radix` alone would also accept a sign.
    let hex = |part: &str| {
        let plain = (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit());
        plain.then(|| u64::from_str_radix(part, 16).ok()).flatten()
    };
    match text.split_once('/') {
        Some((high, low)) => Some(hex(high)? << 32 | hex(low)?),
        None if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
        None => None,
    }
}

/// The end of a transaction: the position just after its commit record (`end_lsn` of pgoutput's Commit message).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitLsn(Lsn);

impl CommitLsn {
    /// From the `end_lsn` of a Commit message.
    pub const fn from_end(end: Lsn) -> Self {
        CommitLsn(end)
    }

    /// The position just after the commit record.
    pub const fn end(self) -> Lsn {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_the_postgres_form_is_printed() {
        let lsn: Lsn = "16/B374D848".parse().unwrap();
        assert_eq!(lsn.as_u64(), 0x16_B374_D848);
        assert_eq!(lsn.to_string(), "16/B374D848");
        assert_eq!(lsn.as_u64().to_string().parse::<Lsn>().unwrap(), lsn);
        assert_eq!("0/0".parse::<Lsn>().unwrap(), Lsn::ZERO);
        assert_eq!("FFFFFFFF/FFFFFFFF".parse::<Lsn>().unwrap(), Lsn::new(u64::MAX));
    }

    #[test]
    fn anything_else_is_refused_with_both_forms_in_the_text() {
        for text in ["", "/", "1/", "/1", "+1/0", "-1", "1/123456789", "g/0", "1.5", "18446744073709551616"] {
            let error = text.parse::<Lsn>().unwrap_err().to_string();
            assert!(error.contains("16/B374D848"), "{text:?}: {error}");
        }
    }
}
