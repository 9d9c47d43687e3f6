//! The `coherd` command. Everything is in [`coherd::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    coherd::cli::main()
}
