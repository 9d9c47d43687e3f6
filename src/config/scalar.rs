//! Parsers for values that are more than text: durations, sizes, names, secrets and URL schemes. Errors say what to
//! write.

use std::path::Path;
use std::time::Duration;

/// Reads `500ms`, `30s`, `5m`, `24h` or `7d`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || {
        format!(
            "`{}` is no duration: write a whole number and a unit, e.g. 500ms, 30s, 5m, 24h, 7d",
            text.escape_debug()
        )
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let (seconds, exact) = match unit.trim_start() {
        "ms" => return Ok(Duration::from_millis(number)),
        "s" => (1, number),
        "m" => (60, number),
        "h" => (3_600, number),
        "d" => (86_400, number),
        _ => return Err(wrong()),
    };
    exact.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

/// Reads `10GiB`, `512MiB` or `64KiB` (by 1024), `1GB` or `500MB` (by 1000), in bytes.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!(
            "`{}` is no size: write a whole number and a unit, e.g. 512MiB, 10GiB, 1TiB (by 1024) or 500MB, 10GB, 1TB \
             (by 1000)",
            text.escape_debug()
        )
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let bytes = match unit.trim_start() {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(bytes).ok_or_else(wrong)
}

/// Checks a slot's name as Postgres does (`ReplicationSlotValidateName`).
pub fn check_slot(name: &str) -> Result<(), String> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    if (1..=63).contains(&name.len()) && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(format!(
        "`{}` is no slot name: Postgres allows 1 to 63 lower-case letters, digits and underscores",
        name.escape_debug()
    ))
}

/// Checks a publication's name: any SQL identifier that Postgres does not truncate.
pub(super) fn check_publication(name: &str) -> Result<(), String> {
    if (1..=63).contains(&name.len()) && !name.contains('\0') {
        return Ok(());
    }
    Err(format!("`{}` is no publication name: Postgres allows 1 to 63 bytes", name.escape_debug()))
}

/// Checks a target's name, which appears in metrics, logs and rules.
pub(super) fn check_target_name(name: &str) -> Result<(), String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if (1..=63).contains(&name.len()) && name.bytes().all(allowed) {
        return Ok(());
    }
    Err("a target's name is 1 to 63 letters, digits, `-` and `_`, e.g. cache".to_owned())
}

/// The scheme of a URL; `None` if it has none. Messages never show any other part of a URL.
pub(super) fn scheme(url: &str) -> Option<String> {
    let (scheme, _) = url.split_once("://")?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
    (!scheme.is_empty() && scheme.bytes().all(plain)).then(|| scheme.to_owned())
}

/// The text of a secret's file, without the one line break that editors put at its end.
pub(super) fn read_secret(path: &Path) -> Result<String, String> {
    let mut text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    if text.is_empty() {
        return Err(format!("{} is empty", path.display()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_number_and_a_unit() {
        for (text, millis) in
            [("500ms", 500), ("30s", 30_000), ("0s", 0), ("5m", 300_000), ("24h", 86_400_000), ("1d", 86_400_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "s", "-1s", "1.5s", "5 parsecs", "99999999999999999999s", "18446744073709551615d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_have_a_number_and_a_unit() {
        for (text, bytes) in [
            ("10GiB", 10 << 30),
            ("512 MiB", 512 << 20),
            ("64KiB", 64 << 10),
            ("1TiB", 1 << 40),
            ("1GB", 1_000_000_000),
            ("500MB", 500_000_000),
            ("1kB", 1_000),
            ("2TB", 2_000_000_000_000),
            ("0MB", 0),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        // A bare number could mean bytes or, as in postgresql.conf, megabytes.
        for text in ["", "10", "GiB", "-1GiB", "1.5GiB", "10G", "10gib", "10 parsecs", "16777216TiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn slot_names_are_those_that_postgres_takes() {
        assert_eq!(check_slot("coherd_2"), Ok(()));
        assert_eq!(check_slot(&"a".repeat(63)), Ok(()));
        for name in ["", "Coherd", "a-b", "ä", &"a".repeat(64)] {
            assert!(check_slot(name).is_err(), "{name}");
        }
    }

    #[test]
    fn only_a_plain_scheme_is_ever_taken_from_a_url() {
        assert_eq!(scheme("rediss://u:p@h").as_deref(), Some("rediss"));
        assert_eq!(scheme("redis+cluster://h").as_deref(), Some("redis+cluster"));
        for url in ["127.0.0.1:6379", "se cret://x", "://x", ":hunter2@h://"] {
            assert_eq!(scheme(url), None, "{url}");
        }
    }
}
