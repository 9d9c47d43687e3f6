//! Formats text for people: tables, time spans, counts.

use std::fmt::Write as _;
use std::time::Duration;

/// A table with a header, each column as wide as its widest cell. Control characters are replaced, see [`plain`].
pub(super) fn columns(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    let cells = |row: &Vec<String>| row.iter().map(|cell| plain(cell)).collect();
    let rows: Vec<Vec<String>> = std::iter::once(&head).chain(rows).map(cells).collect();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..head.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut out = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a String cannot fail.
            let _ = write!(line, "{cell:<width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// A time span in the largest unit that is precise enough: `53 s`, `12 min`, `31 h`, `9 days`.
pub(super) fn span(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{} ms", time.as_millis()),
        seconds @ 1..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// `1 key`, `2 keys`, `1000 keys`.
pub(super) fn plural(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Replaces control characters, so that text from elsewhere cannot control the terminal.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must_be_and_steer_no_terminal() {
        let rows = [vec!["user:ä".to_owned(), "no".to_owned()], vec!["x\u{1b}[2J".to_owned(), "53 s".to_owned()]];
        assert_eq!(columns(&["KEY", "CACHED"], &rows), "KEY     CACHED\nuser:ä  no\nx [2J   53 s\n");
    }

    #[test]
    fn a_span_is_told_in_one_unit() {
        for (ms, said) in
            [(40, "40 ms"), (53_999, "53 s"), (720_000, "12 min"), (7_200_000, "2 h"), (259_200_000, "3 days")]
        {
            assert_eq!(span(Duration::from_millis(ms)), said);
        }
    }
}
