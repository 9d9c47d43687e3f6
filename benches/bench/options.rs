//! Reads from the environment what to measure.

use std::fmt;
use std::path::PathBuf;

/// A kind of backlog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Single-row transactions.
    A,
    /// One transaction.
    B,
    /// Transactions of 10 to 100 rows over three tables.
    C,
}

/// How consumers reach Postgres and Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Unix,
}

/// What the publication publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Columns {
    Keys,
    Full,
}

/// The consumers of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consumer {
    PgRecvlogical,
    Floor,
    /// A naive consumer on a replication crate, without a gate, a record or retries; in `live` only.
    Crate,
    /// A trigger and a listener, without the log; in `live` and `writers` only.
    Notify,
    Coherd,
    /// Another build of coherd: the program that `BEFORE` names.
    Before,
}

/// An option that is written as one of a few words.
pub(crate) trait Word: Copy + PartialEq + 'static {
    const ALL: &'static [Self];
    fn word(self) -> &'static str;
}

impl Word for Shape {
    const ALL: &'static [Self] = &[Shape::A, Shape::B, Shape::C];
    fn word(self) -> &'static str {
        match self {
            Shape::A => "a",
            Shape::B => "b",
            Shape::C => "c",
        }
    }
}

impl Word for Transport {
    const ALL: &'static [Self] = &[Transport::Tcp, Transport::Unix];
    fn word(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Unix => "unix",
        }
    }
}

impl Word for Columns {
    const ALL: &'static [Self] = &[Columns::Keys, Columns::Full];
    fn word(self) -> &'static str {
        match self {
            Columns::Keys => "keys",
            Columns::Full => "full",
        }
    }
}

impl Word for Consumer {
    const ALL: &'static [Self] =
        &[Self::PgRecvlogical, Self::Floor, Self::Crate, Self::Notify, Self::Coherd, Self::Before];
    fn word(self) -> &'static str {
        match self {
            Consumer::PgRecvlogical => "pg_recvlogical",
            Consumer::Floor => "floor",
            Consumer::Crate => "crate",
            Consumer::Notify => "notify",
            Consumer::Coherd => "coherd",
            Consumer::Before => "before",
        }
    }
}

impl Consumer {
    /// Whether it can say when a key is gone.
    pub(crate) fn is_live(self) -> bool {
        self != Consumer::PgRecvlogical
    }

    /// Whether it takes part in a drain.
    pub(crate) fn drains(self) -> bool {
        !matches!(self, Consumer::Crate | Consumer::Notify)
    }

    /// The table that its writers change in `live` and `writers`.
    pub(crate) fn table(self) -> &'static str {
        if self == Consumer::Notify { "notified" } else { "items" }
    }
}

/// The selected options.
pub(crate) struct Options {
    pub(crate) parts: Vec<String>,
    pub(crate) shapes: Vec<Shape>,
    pub(crate) transports: Vec<Transport>,
    pub(crate) columns: Vec<Columns>,
    pub(crate) consumers: Vec<Consumer>,
    pub(crate) changes: u64,
    pub(crate) rounds: usize,
}

impl Options {
    /// Reads the environment. An unknown word ends the run.
    pub(crate) fn from_env(parts: &[&str]) -> Options {
        let asked = list("ONLY");
        for part in &asked {
            assert!(parts.contains(&part.as_str()), "ONLY: {part:?} is none of {parts:?}");
        }
        let all = || parts.iter().filter(|part| **part != "large").map(|&part| part.to_owned()).collect();
        Options {
            parts: if asked.is_empty() { all() } else { asked },
            shapes: words("SHAPES"),
            transports: words("TRANSPORT"),
            columns: words("COLUMNS"),
            consumers: words("CONSUMERS")
                .into_iter()
                .filter(|its| *its != Consumer::Before || before().is_some())
                .collect(),
            changes: number("CHANGES", 1_000_000),
            rounds: number("ROUNDS", 3),
        }
    }

    pub(crate) fn wants(&self, part: &str) -> bool {
        self.parts.iter().any(|its| its == part)
    }
}

/// The program of [`Consumer::Before`], if there is one.
pub(crate) fn before() -> Option<PathBuf> {
    std::env::var_os("BEFORE").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// A number from the environment.
pub(crate) fn number<N: std::str::FromStr<Err: fmt::Debug>>(name: &str, default: N) -> N {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => text.parse().unwrap_or_else(|error| panic!("{name}={text:?}: {error:?}")),
        _ => default,
    }
}

fn list(name: &str) -> Vec<String> {
    let text = std::env::var(name).unwrap_or_default();
    text.split([',', ' ']).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn words<W: Word>(name: &str) -> Vec<W> {
    let asked = list(name);
    let known: Vec<&str> = W::ALL.iter().map(|its| its.word()).collect();
    for word in &asked {
        assert!(known.contains(&word.as_str()), "{name}: {word:?} is none of {known:?}");
    }
    W::ALL.iter().copied().filter(|its| asked.is_empty() || asked.iter().any(|word| word == its.word())).collect()
}
