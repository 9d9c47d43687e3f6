//! `coherd invalidate`: keys by name.

use anyhow::anyhow;

use super::Failure;
use super::columns::plural;
use super::orders::{Options, Orders};
use crate::config::Config;
use crate::invalidation::KEY_BYTES_MAX;

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
    #[command(flatten)]
    options: Options,
}

/// Gives the order.
pub async fn run(config: &Config, args: Args) -> Result<(), Failure> {
    let Args { keys, options } = &args;
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
    }
    let orders = Orders::open(config, options, "coherd invalidate").await?;
    orders.give("SELECT coherd.invalidate(VARIADIC $1)", &[keys]).await?;
    orders.done(config, options, &format!("invalidated {}", plural(keys.len() as u64, "key"))).await
}
