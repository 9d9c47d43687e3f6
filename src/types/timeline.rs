//! Reads the history file of a timeline, as `TIMELINE_HISTORY` sends it: where the log left each earlier timeline
//! (Postgres manual, "Timelines"; `timeline.c`).

use crate::types::lsn::Lsn;
use crate::types::server::Fork;

/// What is wrong with a history file. It names lines, never their content.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHistory {
    /// A line that says something else.
    #[error("line {line} is not a timeline and a position")]
    Line {
        /// Its number, from 1.
        line: usize,
    },
    /// A line that does not come after the one before.
    #[error("line {line} is out of order: timelines and positions must rise")]
    Order {
        /// Its number, from 1.
        line: usize,
    },
    /// No line at all.
    #[error("it names no earlier timeline")]
    Empty,
}

/// The forks on the way to `timeline`, oldest first. A line holds a timeline, the position where the log left it, and a
/// reason for people; `#` begins a comment.
///
/// Stricter than Postgres: one bad line makes the whole history invalid. Fails with the first line that is wrong.
pub fn forks(content: &str, timeline: u32) -> Result<Vec<Fork>, BadHistory> {
    let mut forks: Vec<Fork> = Vec::new();
    for (index, text) in content.lines().enumerate() {
        let line = index + 1;
        let mut words = text.split_ascii_whitespace();
        let Some(first) = words.next().filter(|word| !word.starts_with('#')) else { continue };
        let fork = fork(first, words.next()).ok_or(BadHistory::Line { line })?;
        let rises = forks.last().is_none_or(|last| last.timeline < fork.timeline && last.at <= fork.at);
        if !rises || fork.timeline >= timeline {
            return Err(BadHistory::Order { line });
        }
        forks.push(fork);
    }
    if forks.is_empty() { Err(BadHistory::Empty) } else { Ok(forks) }
}

fn fork(timeline: &str, at: Option<&str>) -> Option<Fork> {
    // `parse` alone would also take a sign, and a decimal number as an LSN.
    let timeline = Some(timeline).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()?;
    let at: Lsn = at.filter(|text| text.contains('/'))?.parse().ok()?;
    (timeline > 0).then_some(Fork { timeline, at })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &str) -> Vec<(u32, u64)> {
        forks(content, 5).unwrap().iter().map(|fork| (fork.timeline, fork.at.as_u64())).collect()
    }

    #[test]
    fn each_line_is_a_fork_and_the_reason_is_for_people() {
        assert_eq!(read("1\t0/3000148\tno recovery target specified\n"), [(1, 0x300_0148)]);
        let third = "1\t0/9000\tno recovery target specified\n\n2\t1/A\tbefore 2000-01-01 # 4\t0/1\n";
        assert_eq!(read(third), [(1, 0x9000), (2, 0x1_0000_000A)]);
    }

    #[test]
    fn comments_blank_lines_and_a_missing_end_of_line_do_not_matter() {
        assert_eq!(read("# by hand\r\n \t\n  1 0/10 \r\n#9\t0/1\n3\t0/00000010"), [(1, 0x10), (3, 0x10)]);
    }

    #[test]
    fn what_no_server_writes_is_refused_with_its_line() {
        for (content, error) in [
            ("", BadHistory::Empty),
            ("# nothing\n\n", BadHistory::Empty),
            ("1", BadHistory::Line { line: 1 }),
            ("one\t0/1\tx", BadHistory::Line { line: 1 }),
            ("1\t0/1\n-2\t0/2", BadHistory::Line { line: 2 }),
            ("+1\t0/1", BadHistory::Line { line: 1 }),
            ("0\t0/1", BadHistory::Line { line: 1 }),
            ("4294967296\t0/1", BadHistory::Line { line: 1 }),
            ("1\t77\tx", BadHistory::Line { line: 1 }),
            ("1\t0/123456789", BadHistory::Line { line: 1 }),
            ("1\t/", BadHistory::Line { line: 1 }),
            ("1\t0/\u{fffd}", BadHistory::Line { line: 1 }),
            ("2\t0/1\n1\t0/2", BadHistory::Order { line: 2 }),
            ("1\t0/1\n1\t0/2", BadHistory::Order { line: 2 }),
            ("1\t0/2\n2\t0/1", BadHistory::Order { line: 2 }),
            ("1\t0/2\n5\t0/3", BadHistory::Order { line: 2 }),
        ] {
            assert_eq!(forks(content, 5), Err(error), "{content:?}");
        }
    }

    #[test]
    fn arbitrary_bytes_are_read_or_refused() {
        let words = ["1", "2", "\t", "0/1", "/", "\n", "#", " ", "\r", "\0", "é", "99999999999", "F/F"];
        let mut chance = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let text: String = (0..chance.usize(..12)).filter_map(|_| chance.choice(words)).collect();
            if let Ok(forks) = forks(&text, 5) {
                assert!(forks.iter().all(|fork| (1..5).contains(&fork.timeline)), "{text:?}");
            }
        }
    }
}
