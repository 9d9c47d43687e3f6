//! Builds the calls of coherd's own scripts: by name if the server knows the script, otherwise with its source.

use std::sync::LazyLock;

use redis::Cmd;

use super::invalidation::{Naming, Pointer};
use super::lua::{BUMP, Function, RECORD, sha1_of};

/// The source of a script, and the name that `EVALSHA` takes.
pub(super) struct Source {
    text: String,
    name: String,
}

impl Source {
    fn of(function: &Function) -> Source {
        let text = function.script();
        Source { name: sha1_of(&text), text }
    }
}

static BUMP_SOURCE: LazyLock<Source> = LazyLock::new(|| Source::of(&BUMP));

/// The script that writes the record.
pub(super) static RECORD_SOURCE: LazyLock<Source> = LazyLock::new(|| Source::of(&RECORD));

/// Whether the server is known to have a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Script {
    /// The server confirmed a call on this connection, so the name is enough.
    Known,
    /// The server may not have it, so the call contains the source.
    Unknown,
}

impl Script {
    /// Begins a call of `source`. The caller adds the number of keys, the keys and the arguments; there is room for
    /// `arguments` of them, with `bytes` in all.
    pub(super) fn begin(self, source: &Source, arguments: usize, bytes: usize) -> Cmd {
        let length = if self == Script::Known { source.name.len() } else { source.text.len() };
        let mut command = Cmd::with_capacity(arguments + 3, bytes + length + 16);
        match self {
            Script::Known => command.arg("EVALSHA").arg(source.name.as_str()),
            Script::Unknown => command.arg("EVAL").arg(source.text.as_str()),
        };
        command
    }

    /// One call of the bump script for all `keys`.
    pub(super) fn call<K: AsRef<[u8]>>(self, keys: &[K], naming: Naming, ttl_ms: u64) -> Cmd {
        let bytes: usize = keys.iter().map(|key| key.as_ref().len() + 8).sum();
        let mut command = self.begin(&BUMP_SOURCE, keys.len() + 1, bytes + 20);
        command.arg(keys.len());
        for key in keys {
            command.arg(Pointer(key.as_ref(), naming));
        }
        command.arg(ttl_ms);
        command
    }
}
