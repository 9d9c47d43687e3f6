//! `coherd lua`: prints the Redis functions that readers call, to be loaded manually.

use super::{Failure, print};
use crate::targets::redis::lua::{FUNCTIONS, Function, library};

/// `coherd lua`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Redis 7 and Valkey, where the daemon does it by itself:  coherd lua | redis-cli -x FUNCTION LOAD REPLACE\n\
                        Redis 6:  redis-cli SCRIPT LOAD \"$(coherd lua --eval get)\", then EVALSHA with the keys and \
                        arguments that the library's first lines give for FCALL"
)]
pub struct Args {
    /// Print one function as a script for EVAL, for Redis 6
    #[arg(long, value_name = "FUNCTION", value_parser = names())]
    eval: Option<String>,
}

/// The functions' names, for clap to check.
fn names() -> clap::builder::PossibleValuesParser {
    FUNCTIONS.iter().map(|function| function.name).collect::<Vec<_>>().into()
}

/// Prints the library, or one function as a script.
pub fn run(args: &Args) -> Result<(), Failure> {
    let wanted = |function: &&Function| Some(function.name) == args.eval.as_deref();
    print(&FUNCTIONS.iter().find(wanted).map_or_else(library, Function::script))
}
