//! The command line: parses the arguments and runs one command. Each command is one file. Results go to stdout,
//! everything else to stderr.

mod cached;
pub mod check;
mod columns;
pub mod completions;
mod daemon;
pub mod explain;
pub mod flush;
mod found;
pub mod invalidate;
pub mod keys;
pub mod log;
pub mod lua;
pub mod man;
mod manual;
pub mod parts;
pub mod run;
pub mod schema;
pub mod setup;
mod shutdown;
pub mod status;
pub mod tail;
pub mod teardown;
pub mod test;
pub mod wait;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory, Parser, Subcommand};

use crate::config::{Config, ConfigError, DEFAULT_PATH};

const ABOUT: &str = "Keeps caches coherent with Postgres: follows the write-ahead log and invalidates the cache keys of \
                     every changed row";

const EXAMPLE: &str = "\
A first configuration, to be written to /etc/coherd/coherd.yaml:

  source:
    dsn: postgresql://coherd@127.0.0.1:5432/app
  targets:
    cache:
      url: redis://127.0.0.1:6379/0
  rules:
    - table: public.users
      keys: [\"user:{id}\", \"user:by-email:{email|lower}\"]

`man coherd.yaml` lists every key, with its meaning and its default.

Exit codes:
  0   fine
  1   failed; stderr says what was tried, what was got and what to do
  2   wrong usage of the command line
  78  wrong configuration; stderr names file, line, column and field";

/// The parsed command line.
#[derive(Debug, Parser)]
#[command(name = "coherd", version, about = ABOUT, after_help = EXAMPLE, max_term_width = 120)]
pub struct Cli {
    /// The configuration file
    #[arg(long, global = true, env = "COHERD_CONFIG", hide_env_values = true, default_value = DEFAULT_PATH, value_name = "FILE")]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the daemon. SIGTERM or SIGINT stops it after it has delivered what it has read; SIGHUP reloads the
    /// configuration
    Run,
    /// Checks all prerequisites and rules against the live database and the targets
    Check(check::Args),
    /// Creates the publication, functions and slot without disturbing writers
    Setup(setup::Args),
    /// Drops the slot, publication and functions
    Teardown(teardown::Args),
    /// Runs the cases below `tests:` in the configuration, without a database
    Test(test::Args),
    /// Previews a manual fix: lists the keys of the rows, or those that a SQL file would touch, and shows which are
    /// cached
    Keys(keys::Args),
    /// Explains which rules and rows produce a key, and what could leave it stale
    Explain(explain::Args),
    /// Follows changes live and prints their keys, without invalidating anything
    Tail(tail::Args),
    /// Invalidates keys by name, through the write-ahead log
    Invalidate(invalidate::Args),
    /// Counts and then flushes every key that a table's rules can make, through the write-ahead log
    Flush(flush::Args),
    /// Shows the state of the running daemon: stages, lag, slot, targets, replicas, gaps and recent commits
    Status(status::Args),
    /// Waits until everything committed so far is settled (or applied, with --stage)
    Wait(wait::Args),
    /// Prints the function library that the daemon loads into Redis 7 and Valkey for cache readers
    Lua(lua::Args),
    /// Prints the JSON Schema of the configuration, for editors
    Schema(schema::Args),
    /// Prints a shell completion script
    Completions(completions::Args),
    /// Writes the manual pages: one for each command, and coherd.yaml(5)
    #[command(hide = true)]
    Man(man::Args),
}

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// The configuration cannot be used.
    Config(ConfigError),
    /// One value in it cannot be used. The text names the field, says what is wrong and what to write.
    Setting(String),
    /// Anything else.
    Failed(anyhow::Error),
    /// The command has already reported the failure, on stdout or stderr.
    Told,
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Failure::Config(error)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Failure::Failed(error)
    }
}

impl From<Failure> for anyhow::Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Config(error) => error.into(),
            Failure::Setting(text) => anyhow::Error::msg(text),
            Failure::Failed(error) => error,
            Failure::Told => anyhow::Error::msg("failed"),
        }
    }
}

impl Failure {
    /// The process's exit code. clap itself exits with 2 on wrong usage.
    pub const fn code(&self) -> u8 {
        match self {
            Failure::Failed(_) | Failure::Told => 1,
            // EX_CONFIG of sysexits.h. systemd's RestartPreventExitStatus can name it.
            Failure::Config(_) | Failure::Setting(_) => 78,
        }
    }
}

/// Parses the command line, runs the command and returns the exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to stdout with code 0, wrong usage to stderr with code 2.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            match &failure {
                Failure::Config(error) => log::last_words(&error.to_string()),
                Failure::Setting(text) => log::last_words(&format!("coherd: {text}")),
                Failure::Failed(error) => log::last_words(&format!("coherd: {error:#}")),
                Failure::Told => {}
            }
            ExitCode::from(failure.code())
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    // Loaded only by the commands that need it: some commands run on machines that have no configuration.
    let config = || Config::load(&cli.config, &|name| std::env::var(name).ok());
    // One thread: the walsender and the cache are the limits. More threads would only take CPU time from them.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    match cli.command {
        Command::Run => runtime.block_on(run::run(config()?, &cli.config)),
        Command::Check(args) => runtime.block_on(check::run(&config()?, args)),
        Command::Setup(args) => runtime.block_on(setup::run(&config()?, args)),
        Command::Teardown(args) => runtime.block_on(teardown::run(&config()?, args)),
        Command::Test(args) => test::run(&cli.config, &args),
        Command::Keys(args) => runtime.block_on(keys::run(&config()?, args)),
        Command::Explain(args) => runtime.block_on(explain::run(&config()?, args)),
        Command::Tail(args) => runtime.block_on(tail::run(&config()?, args)),
        Command::Invalidate(args) => runtime.block_on(invalidate::run(&config()?, args)),
        Command::Flush(args) => runtime.block_on(flush::run(&config()?, args)),
        Command::Status(args) => runtime.block_on(status::run(&daemon::Way::find(args.admin, &cli.config), args)),
        Command::Wait(args) => runtime.block_on(wait::run(&daemon::Way::find(args.admin, &cli.config), args)),
        Command::Lua(args) => lua::run(&args),
        Command::Schema(args) => schema::run(&args),
        Command::Completions(args) => completions::run(&args, Cli::command()),
        Command::Man(args) => man::run(&args, Cli::command()),
    }
}

/// Writes a result to stdout. A reader that closes the pipe, as `head` does, is not a failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(anyhow::Error::new(error).context("writing to stdout").into())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_shows_a_configuration_that_is_good() {
        let help = Cli::command().render_long_help().to_string();
        let lines = help.lines().skip_while(|line| *line != "  source:").take_while(|line| !line.is_empty());
        let text = lines.collect::<Vec<_>>().join("\n");
        Config::parse(&text, DEFAULT_PATH.as_ref(), &|_| None).unwrap();
        for part in [DEFAULT_PATH, "COHERD_CONFIG", "78"] {
            assert!(help.contains(part), "{part} is missing in\n{help}");
        }
    }
}
