//! How the bump script is called.

use std::sync::LazyLock;

use redis::Cmd;

use super::lua::{BUMP, sha1_of};
use super::strike::{Naming, Pointer};

static SOURCE: LazyLock<String> = LazyLock::new(|| BUMP.script());

static NAME: LazyLock<String> = LazyLock::new(|| sha1_of(&SOURCE));

/// Whether the server has the script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Script {
    /// It confirmed a call on this connection: the name is enough.
    Known,
    /// It may not: the source is sent along.
    Unknown,
}

impl Script {
    /// One call for all `keys`.
    pub(super) fn call<K: AsRef<[u8]>>(self, keys: &[K], naming: Naming, ttl_ms: u64) -> Cmd {
        let bytes: usize = keys.iter().map(|key| key.as_ref().len() + 8).sum();
        let mut command = Cmd::with_capacity(keys.len() + 4, bytes + SOURCE.len() + 40);
        match self {
            Script::Known => command.arg("EVALSHA").arg(NAME.as_str()),
            Script::Unknown => command.arg("EVAL").arg(SOURCE.as_str()),
        };
        command.arg(keys.len());
        for key in keys {
            command.arg(Pointer(key.as_ref(), naming));
        }
        command.arg(ttl_ms);
        command
    }
}
