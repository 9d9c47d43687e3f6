//! Checks a Redis for `coherd check`: what the server is ([`server`]), what the user may do ([`permissions`]), and what
//! the server holds. Changes nothing.

mod permissions;
mod server;

use redis::{Cmd, ConnectionAddr, Pipeline, ServerError, Value};

use super::connection::{Connected, Line};
use super::library::{found, is_unknown, list};
use super::lua::{NAME, library, version_of};
use super::reply::{Step, broken, refused};
use super::{library as loader, record};
use crate::targets::config::TargetConfig;
use crate::targets::{Fault, FaultKind, Needs, OpenError, Surveying};
use crate::types::finding::{Code, Finding, shell_word};
use crate::types::invalidation::Action;
use permissions::Probe;

/// The most key templates that are tried: the thousandth needs the same rights as the hundredth.
const SAMPLES_MAX: usize = 1000;

/// See [`crate::targets::Kind::survey`].
pub(super) fn survey(config: &TargetConfig, mut needs: Needs) -> Result<Surveying, OpenError> {
    let line = Line::new(config)?;
    let config = config.clone();
    Ok(Box::pin(async move {
        let subject = format!("target {}", config.name);
        needs.samples.truncate(SAMPLES_MAX);
        let connected = match line.connected().await {
            Ok(connected) => connected,
            Err(fault) => return vec![unreachable(subject, &fault)],
        };
        let mut survey = Survey { cli: cli(&line), subject, line, config, needs, connected, findings: Vec::new() };
        if let Err(fault) = survey.look().await {
            survey.findings.push(unreachable(survey.subject.clone(), &fault));
        }
        survey.findings
    }))
}

fn unreachable(subject: String, fault: &Fault) -> Finding {
    if fault.kind.passes_by_itself() {
        Finding::unknown(Code::TARGET_UNREACHABLE, subject, format!("nothing was checked: {fault}"))
    } else {
        Finding::error(Code::TARGET_REFUSED, subject, fault.to_string())
    }
}

/// `redis-cli` with the server's address and no password: the remedies are for an administrator.
fn cli(line: &Line) -> String {
    let quoted = |text: &str| {
        let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/' | ':'));
        if plain { text.to_owned() } else { shell_word(text) }
    };
    match &line.address {
        ConnectionAddr::Tcp(host, port) => format!("redis-cli -h {} -p {port}", quoted(host)),
        ConnectionAddr::TcpTls { host, port, .. } => format!("redis-cli --tls -h {} -p {port}", quoted(host)),
        ConnectionAddr::Unix(path) => format!("redis-cli -s {}", quoted(&path.display().to_string())),
        _ => "redis-cli".to_owned(),
    }
}

/// One check of one server.
struct Survey {
    line: Line,
    config: TargetConfig,
    needs: Needs,
    connected: Connected,
    subject: String,
    /// The beginning of a remedy's command.
    cli: String,
    findings: Vec<Finding>,
}

impl Survey {
    /// Runs every check. An `Err` is a lost connection.
    async fn look(&mut self) -> Result<(), Fault> {
        let probes = permissions::probes(&self.config, &self.needs);
        let commands: Vec<Cmd> = probes.iter().map(Probe::command).collect();
        let replies = self.ask("trying commands", &commands).await?;
        for (probe, reply) in probes.iter().zip(&replies) {
            self.assess(probe, reply);
        }
        self.record().await?;
        if self.needs.has(Action::Publish) {
            self.channel().await?;
        }
        if self.reads_with_functions() {
            self.library().await?;
        }
        self.server().await
    }

    /// Sends the commands and returns all replies, error replies included.
    async fn ask(&self, tried: &str, commands: &[Cmd]) -> Result<Vec<Value>, Fault> {
        let mut pipeline = Pipeline::with_capacity(commands.len());
        for command in commands {
            pipeline.add_command(command.clone());
        }
        let mut connection = self.connected.connection.clone();
        let replies = connection.send_packed_commands(&pipeline, 0, commands.len()).await;
        let lost = |error| self.line.explain(&self.connected.ended, broken(&self.line.place, tried, &error));
        replies.map_err(lost)
    }

    async fn ask_one(&self, tried: &str, command: Cmd) -> Result<Value, Fault> {
        Ok(self.ask(tried, &[command]).await?.pop().unwrap_or(Value::Nil))
    }

    /// Readers need functions for leases and for version pointers.
    fn reads_with_functions(&self) -> bool {
        self.config.leases || self.needs.has(Action::Bump)
    }

    /// Adds a finding. There is one per code: a second one only adds its remedies to the first.
    fn find(&mut self, finding: Finding) {
        match self.findings.iter_mut().find(|there| there.code == finding.code) {
            Some(there) => {
                // A note (`#`) applies to all lines, so it stands last, and once.
                there.remedy.retain(|line| !line.starts_with('#'));
                for line in finding.remedy {
                    if !there.remedy.contains(&line) {
                        there.remedy.push(line);
                    }
                }
            }
            None => self.findings.push(finding),
        }
    }

    /// A command for an administrator.
    fn command(&self, words: &str) -> String {
        format!("{} {words}", self.cli)
    }

    fn grant(&self, what: &str) -> String {
        let user = if self.line.user.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') {
            self.line.user.clone()
        } else {
            shell_word(&self.line.user)
        };
        self.command(&format!("ACL SETUSER {user} {what}"))
    }

    /// Adds a finding about the user's rights, with the commands that fix it.
    fn denied(&mut self, code: Code, why: &str, grants: &[String]) {
        let message = format!("user {}: {why}", self.line.user);
        let finding = match code {
            Code::ACL_FUNCTION_LIST | Code::ACL_FUNCTION_LOAD => Finding::warning(code, &self.subject, message),
            Code::ACL_INFO | Code::ACL_MULTI => Finding::unknown(code, &self.subject, message),
            _ => Finding::error(code, &self.subject, message),
        };
        let finding = finding.remedies(grants.iter().map(|grant| self.grant(grant)));
        self.find(finding.remedy(KEEP_USER));
    }

    /// Adds what the reply to a probe says.
    fn assess(&mut self, probe: &Probe, reply: &Value) {
        for error in probe.errors(reply) {
            self.assess_error(probe, &error);
        }
    }

    fn assess_error(&mut self, probe: &Probe, error: &Told) {
        match error.denial() {
            Some(Denial::Command) => {
                let right = probe.right(&error.details);
                self.denied(right.code, right.why, &[right.grant.to_owned()]);
            }
            Some(Denial::Key) => {
                let why = "it may not access keys of the rules, or their record, leases or version pointers: one \
                           refused command blocks all deliveries";
                self.denied(Code::ACL_KEYS, why, &probe.patterns(&self.config));
            }
            Some(Denial::Channel) => {
                let why = "it may not publish on the channel of the publish rules, which blocks all deliveries";
                self.denied(Code::ACL_CHANNEL, why, &[shell_word(&format!("&{}*", self.config.channel))]);
            }
            None if probe.provokes(error) => {}
            None => self.state(probe.step, error),
        }
    }

    /// Adds errors about the server, and errors that nobody has thought of: what the server refuses here, it refuses to
    /// `coherd run` too.
    fn state(&mut self, step: Step, error: &Told) {
        let fault = error.fault(&self.line.place, step);
        let (code, remedy) = match error.code.as_str() {
            "READONLY" => (Code::TARGET_READ_ONLY, None),
            "MISCONF" => (Code::TARGET_NOT_READY, Some("CONFIG SET stop-writes-on-bgsave-error no")),
            "NOREPLICAS" => (Code::TARGET_NOT_READY, Some("CONFIG SET min-replicas-to-write 0")),
            "MOVED" | "ASK" | "CROSSSLOT" | "CLUSTERDOWN" => (Code::TARGET_CLUSTER, None),
            "ERR" if is_unknown(Some(&error.details)) => (Code::TARGET_COMMAND, None),
            _ if fault.kind == FaultKind::NotReady => (Code::TARGET_NOT_READY, None),
            _ => (Code::TARGET_REFUSED, None),
        };
        let finding = Finding::error(code, &self.subject, fault.message);
        let finding = match remedy {
            Some(remedy) => finding.remedy(self.command(remedy)).remedy(KEEP_CONFIG),
            None => finding,
        };
        self.find(finding);
    }

    /// Checks what the record's key holds.
    async fn record(&mut self) -> Result<(), Fault> {
        let key = self.config.record_key.clone();
        let reply = self.ask_one("reading the record", redis::cmd("HGETALL").arg(&key).to_owned()).await?;
        let readable = match &reply {
            // Rights are checked elsewhere.
            Value::ServerError(error) => error.code() != "WRONGTYPE",
            hash => record::read(hash).is_ok(),
        };
        if !readable {
            let message = format!(
                "{}: the value at {key} is not a coherd record, so something else writes this key. Set record to \
                 another key, or delete this one: coherd then flushes the target, as after a loss of its data",
                self.line.place
            );
            let remedy = format!("{} -n {} DEL {}", self.cli, self.line.database, shell_word(&key));
            self.find(Finding::error(Code::RECORD_UNREADABLE, &self.subject, message).remedy(remedy));
        }
        Ok(())
    }

    /// Tries `PUBLISH`. Subscribers would hear it, so it is queued with `MULTI` and discarded.
    async fn channel(&mut self) -> Result<(), Fault> {
        const TRIED: &str = "MULTI, PUBLISH, DISCARD";
        let begun = self.ask_one(TRIED, redis::cmd("MULTI")).await?;
        if let Some(error) = Told::of(&begun) {
            if error.denial().is_some() {
                let why =
                    "it may not MULTI and DISCARD, so PUBLISH was not tested: subscribers would get the test message";
                self.denied(Code::ACL_MULTI, why, &["+multi".to_owned(), "+discard".to_owned()]);
            } else {
                self.state(Step::Publish, &error);
            }
            return Ok(());
        }
        let probe = Probe::publish(&self.config);
        let replies = self.ask(TRIED, &[probe.command(), redis::cmd("DISCARD")]).await?;
        if let Some(reply) = replies.first() {
            self.assess(&probe, reply);
        }
        if replies.get(1).and_then(Told::of).is_some_and(|error| error.denial().is_some()) {
            let why = "it may not DISCARD, so whether it may PUBLISH was not tried to the end";
            self.denied(Code::ACL_MULTI, why, &["+discard".to_owned()]);
        }
        Ok(())
    }

    /// Checks the functions that readers call.
    async fn library(&mut self) -> Result<(), Fault> {
        let reply = self.ask_one("FUNCTION LIST", list()).await?;
        let ours = version_of(&library()).unwrap_or_default();
        if let Some(error) = Told::of(&reply) {
            if error.denial().is_some() {
                // The library is unknown, so the right to load it may be needed too.
                return self.loading().await;
            }
            if is_unknown(Some(&error.details)) {
                let message = "it has no functions (Redis 7 and Valkey have): readers with leases or versions take the scripts \
                               that coherd lua --eval prints";
                self.find(Finding::warning(Code::LIBRARY_UNSUPPORTED, &self.subject, message));
            }
            return Ok(());
        }
        let load = format!("coherd lua | {} -x FUNCTION LOAD", self.cli);
        let warning = |code, message: String| Finding::warning(code, &self.subject, message);
        let finding = match found(&reply, ours) {
            Some(loader::Found::Same | loader::Found::Newer(_)) | None => return Ok(()),
            Some(loader::Found::Nothing) => {
                let message = "readers' functions are not loaded yet, so readers get errors; coherd run loads them";
                warning(Code::LIBRARY_MISSING, message.to_owned()).remedy(load)
            }
            Some(loader::Found::Older(theirs)) => {
                let message = format!(
                    "readers' functions have version {theirs}, and coherd's have {ours}; coherd run updates them"
                );
                warning(Code::LIBRARY_OLD, message).remedy(format!("{load} REPLACE"))
            }
            Some(loader::Found::Foreign) => {
                let message = format!(
                    "there is a function library {NAME} that is not coherd's: readers call the wrong functions"
                );
                let finding = Finding::error(Code::LIBRARY_FOREIGN, &self.subject, message);
                finding.remedy(self.command(&format!("FUNCTION DELETE {NAME}"))).remedy(load)
            }
        };
        self.find(finding);
        self.loading().await
    }

    /// Checks whether the user may load functions. What it loads is no library, so the server refuses it even if the
    /// user has the right.
    async fn loading(&mut self) -> Result<(), Fault> {
        let probe = Probe::load();
        let reply = self.ask_one("FUNCTION LOAD", probe.command()).await?;
        self.assess(&probe, &reply);
        Ok(())
    }
}

const KEEP_USER: &str =
    "# beyond a restart: ACL SAVE or CONFIG REWRITE; on Amazon ElastiCache, in the user's access string";

const KEEP_CONFIG: &str = "# beyond a restart: CONFIG REWRITE; on a managed service, in its parameter group";

/// What a user has no right to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Denial {
    Command,
    Key,
    Channel,
}

/// An error reply, or an error that a script caught.
#[derive(Debug, Clone)]
struct Told {
    code: String,
    details: String,
    error: Option<ServerError>,
}

impl Told {
    fn of(reply: &Value) -> Option<Told> {
        let Value::ServerError(error) = reply else { return None };
        let (code, details) = (error.code().to_owned(), error.details().unwrap_or_default().to_owned());
        Some(Told { code, details, error: Some(error.clone()) })
    }

    /// Reads an error that a script caught and returned: the error's line, perhaps without its code.
    fn in_script(text: &str) -> Told {
        let (code, details) = text.split_once(' ').unwrap_or((text, ""));
        let is_code = !code.is_empty() && code.chars().all(|c| c.is_ascii_uppercase());
        let (code, details) = if is_code { (code, details) } else { ("ERR", text) };
        Told { code: code.to_owned(), details: details.to_owned(), error: None }
    }

    /// Reads the wordings of Redis 6, 7 and Valkey: "no permissions to run the 'x' command", "… to access one of the
    /// keys", "… a channel"; in scripts of Redis 6 "the user executing the script can't …".
    fn denial(&self) -> Option<Denial> {
        let text = self.details.to_ascii_lowercase();
        if self.code != "NOPERM" && !text.contains("executing the script can't") && !text.contains("no permissions to")
        {
            return None;
        }
        Some(if text.contains("channel") {
            Denial::Channel
        } else if text.contains("keys") || text.contains("a key") {
            Denial::Key
        } else {
            Denial::Command
        })
    }

    fn fault(&self, place: &str, step: Step) -> Fault {
        if let Some(error) = &self.error {
            return refused(place, step, error);
        }
        let message = format!("{place}: {} meets {} inside", step.command(), self.code);
        Fault { kind: FaultKind::Rejected, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wording_of_a_refusal_is_understood() {
        for (text, denial) in [
            (
                "NOPERM this user has no permissions to run the 'unlink' command or its subcommand",
                Some(Denial::Command),
            ),
            ("NOPERM User coherd has no permissions to run the 'function|list' command", Some(Denial::Command)),
            ("NOPERM this user has no permissions to access one of the keys used as arguments", Some(Denial::Key)),
            ("NOPERM No permissions to access a key", Some(Denial::Key)),
            ("NOPERM No permissions to access a channel", Some(Denial::Channel)),
            (
                "NOPERM ACL failure in script: User coherd has no permissions to run the 'time' command",
                Some(Denial::Command),
            ),
            ("The user executing the script can't run this command or subcommand", Some(Denial::Command)),
            ("The user executing the script can't access at least one of the keys mentioned", Some(Denial::Key)),
            ("ERR wrong number of arguments for 'hset' command", None),
        ] {
            assert_eq!(Told::in_script(text).denial(), denial, "{text}");
        }
    }
}
