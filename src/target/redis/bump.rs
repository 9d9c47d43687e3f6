//! The bump script and how it is called.

use std::fmt::Write;
use std::sync::LazyLock;

use redis::Cmd;
use sha1::{Digest, Sha1};

use super::strike::{Naming, Pointer};

const SOURCE: &str = include_str!("bump.lua");

/// `SHA1(SOURCE)` in lower-case hexadecimal: the name that `EVALSHA` takes.
static NAME: LazyLock<String> = LazyLock::new(|| {
    Sha1::digest(SOURCE).iter().fold(String::new(), |mut name, byte| {
        // Into a string, which does not fail.
        let _ = write!(name, "{byte:02x}");
        name
    })
});

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
            Script::Unknown => command.arg("EVAL").arg(SOURCE),
        };
        command.arg(keys.len());
        for key in keys {
            command.arg(Pointer(key.as_ref(), naming));
        }
        command.arg(ttl_ms);
        command
    }
}
