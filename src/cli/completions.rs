//! `coherd completions`: prints a shell's completion script.

use clap::Command;
use clap_complete::Shell;

use super::{Failure, print};

/// `coherd completions`
#[derive(Debug, clap::Args)]
#[command(after_help = "For bash, now:  source <(coherd completions bash)\n\
                        The Debian package brings those of bash, zsh and fish along")]
pub struct Args {
    /// The shell
    shell: Shell,
}

/// Prints the script.
pub fn run(args: &Args, mut command: Command) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "coherd", &mut script);
    print(&String::from_utf8_lossy(&script))
}
