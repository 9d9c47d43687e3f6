//! `coherd schema`: the JSON Schema of the configuration, for editors.

use anyhow::Context as _;

use super::{Failure, print};
use crate::config::schema::schema;

/// `coherd schema`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "For an editor that speaks to the YAML language server, as the first line of the configuration:\n\n  \
                  # yaml-language-server: $schema=/usr/share/coherd/coherd.schema.json"
)]
pub struct Args {}

/// Prints the schema.
pub fn run(_: &Args) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(&schema()).context("writing the schema")?;
    print(&format!("{text}\n"))
}
