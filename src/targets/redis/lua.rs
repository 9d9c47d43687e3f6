//! All Lua that runs in Redis. The parts in `lua/` become the function library of Redis 7 and Valkey. The same bodies
//! become scripts for `EVAL`.

use std::fmt::Write as _;

use sha1::{Digest, Sha1};

const PROTOCOL: &str = include_str!("lua/protocol.lua");
const ARGUMENTS: &str = include_str!("lua/arguments.lua");
const LEASES: &str = include_str!("lua/leases.lua");
const POINTERS: &str = include_str!("lua/pointers.lua");

/// The beginning of the line of the library that holds its version.
const VERSION_BEFORE: &str = "-- coherd function library, version ";

/// The library's name in `FUNCTION LIST`.
pub const NAME: &str = "coherd";

/// The functions that readers call, in the order of the library.
pub const FUNCTIONS: &[Function] = &[
    Function { name: "get", body: include_str!("lua/get.lua"), shared: &[ARGUMENTS, LEASES] },
    Function { name: "fill", body: include_str!("lua/fill.lua"), shared: &[ARGUMENTS, LEASES] },
    Function { name: "version", body: include_str!("lua/version.lua"), shared: &[ARGUMENTS, POINTERS] },
];

/// The bump script. coherd calls its own scripts by `EVALSHA`, so that it depends on no library that somebody may
/// flush.
pub(super) const BUMP: Function = Function { name: "bump", body: include_str!("lua/bump.lua"), shared: &[POINTERS] };

/// The script that writes the record. Plain `HSET` cannot do so if memory is full or if the key holds something else.
pub(super) const RECORD: Function = Function { name: "record", body: include_str!("lua/record.lua"), shared: &[] };

/// A function's body, and the shared parts that it needs before it.
#[derive(Debug)]
pub struct Function {
    /// The short name: `get` for the function `coherd_get`.
    pub name: &'static str,
    body: &'static str,
    shared: &'static [&'static str],
}

impl Function {
    /// The script for `EVAL`. It takes the function's keys and arguments.
    pub fn script(&self) -> String {
        self.shared.concat() + self.body
    }
}

/// The source of the library, for `FUNCTION LOAD`.
pub fn library() -> String {
    let mut text = format!("#!lua name={NAME}\n{PROTOCOL}{ARGUMENTS}{LEASES}{POINTERS}");
    for Function { name, body, .. } in FUNCTIONS {
        // Writing into a string cannot fail.
        let _ = write!(text, "local function coherd_{name}(KEYS, ARGV)\n{body}end\n\n");
    }
    for Function { name, .. } in FUNCTIONS {
        let _ = writeln!(text, "redis.register_function('coherd_{name}', coherd_{name})");
    }
    text
}

/// The version in the source of a library; `None` if the library is not coherd's.
pub(super) fn version_of(library: &str) -> Option<u32> {
    library.lines().find_map(|line| line.strip_prefix(VERSION_BEFORE)?.split(':').next()?.parse().ok())
}

/// `SHA1(text)` in lower-case hexadecimal: the name that `EVALSHA` takes.
pub(super) fn sha1_of(text: &str) -> String {
    Sha1::digest(text).iter().fold(String::new(), |mut name, byte| {
        // Writing into a string cannot fail.
        let _ = write!(name, "{byte:02x}");
        name
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// coherd does not load a library that the server has in the same version, so a changed text needs a new version.
    #[test]
    fn a_changed_library_is_a_new_version() {
        let code: Vec<String> = library()
            .lines()
            .map(|line| line.trim().to_owned())
            .filter(|line| !line.is_empty() && !line.starts_with("--"))
            .collect();
        let state = (version_of(&library()), sha1_of(&code.join("\n")));
        assert_eq!(state, (Some(1), "cccbd215f405b0d8b99559754b7b54e7d084c25b".to_owned()), "raise the version");
    }

    #[test]
    fn a_library_without_the_line_is_of_somebody_else() {
        assert_eq!(version_of("#!lua name=coherd\nredis.register_function('x', function() end)"), None);
        assert_eq!(version_of("-- coherd function library, version 12: text"), Some(12));
        assert_eq!(version_of("-- coherd function library, version soon: text"), None);
    }

    #[test]
    fn every_line_is_readable_and_every_part_ends_with_a_line_break() {
        let scripts = FUNCTIONS.iter().chain([&BUMP, &RECORD]).map(Function::script);
        for text in scripts.chain([library()]) {
            assert!(text.ends_with('\n') && text.is_ascii());
            assert!(text.lines().all(|line| line.len() <= 130), "{text}");
        }
    }
}
