//! `coherd invalidate`: invalidates keys by name.

use anyhow::anyhow;

use super::Failure;
use super::columns::plural;
use super::manual::{ManualSession, Options};
use crate::config::{Config, ManualKeys};
use crate::rules::named::Cover;
use crate::types::invalidation::KEY_BYTES_MAX;

/// `coherd invalidate`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The keys go through the log, as SELECT coherd.invalidate('…') does: to every target, also to those that are away now. \
    Where a rule that bumps or publishes makes the key, its pointer moves or it is sent as well."
)]
pub struct Args {
    /// The keys, as they are in the cache
    #[arg(value_name = "KEY", required = true)]
    keys: Vec<String>,
    /// Accept keys that contain *, ? or [, and take them literally
    #[arg(long)]
    literal: bool,
    #[command(flatten)]
    options: Options,
}

/// Checks the keys and makes the request.
pub async fn run(config: &Config, args: Args) -> Result<(), Failure> {
    let Args { keys, literal, options } = &args;
    let cover = Cover::new(&config.rules);
    for (number, key) in (1..).zip(keys) {
        let told = |what: &str| Err(anyhow!("nothing was done: key {number} of {} {what}", keys.len()).into());
        if key.is_empty() {
            return told("is empty: is a variable of the shell not set?");
        }
        if key.len() > KEY_BYTES_MAX {
            return told(&format!(
                "has {} bytes, and no key that coherd makes has more than {KEY_BYTES_MAX}",
                key.len()
            ));
        }
        if !literal && is_glob(key) {
            return told(
                "looks like a pattern, but this command takes keys literally: `coherd flush --table …` invalidates \
                 every key of a table's rules, and --literal accepts this key as it is",
            );
        }
        let is_covered = cover.rules(&config.rules, key.as_bytes()).next().is_some();
        if config.manual_keys == ManualKeys::Rules && !is_covered {
            return told(
                "is not covered by any rule, so the daemon ignores it: add a rule that covers it, or set \
                 manual.keys to any and reload coherd",
            );
        }
    }
    let session = ManualSession::open(config, options, "coherd invalidate").await?;
    session.request("SELECT coherd.invalidate(VARIADIC $1)", &[keys]).await?;
    session.done(config, options, &format!("invalidated {}", plural(keys.len() as u64, "key"))).await
}

/// Whether Redis would read the key as a pattern. A backslash escapes the next byte.
pub(super) fn is_glob(key: &str) -> bool {
    let mut bytes = key.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => _ = bytes.next(),
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::is_glob;

    #[test]
    fn a_key_with_an_unescaped_sign_of_a_pattern_looks_like_one() {
        for (key, expected) in [
            ("user:*", true),
            ("user:?", true),
            ("user:[0-9]", true),
            ("user:1", false),
            ("user:]", false),
            (r"user:\*", false),
            (r"user:\\*", true),
            (r"user:\", false),
        ] {
            assert_eq!(is_glob(key), expected, "{key}");
        }
    }
}
