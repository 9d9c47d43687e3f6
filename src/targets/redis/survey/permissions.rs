//! Commands that show whether the user may do what coherd will do, and that change nothing. They name keys that nobody
//! has, or the server refuses them for their arguments after it has checked rights, memory and role (`processCommand`
//! in Redis's server.c checks in that order). So these checks need no further rights, and they also show what a server
//! refuses for another reason.

use redis::{Cmd, Value};

use super::super::invalidation::{LEASE_SUFFIX, Naming, POINTER_SUFFIX, Pointer, unlink, unlink_leases};
use super::super::lua::sha1_of;
use super::super::reply::Step;
use super::Told;
use crate::targets::Needs;
use crate::targets::config::TargetConfig;
use crate::types::finding::{Code, shell_word};
use crate::types::invalidation::Action;

/// The commands of the bump script, on a pointer that does not exist. Returns what went wrong in each.
const SCRIPT: &str = "local function told(reply) return type(reply) == 'table' and reply.err or '' end
return {told(redis.pcall('TIME')), told(redis.pcall('GET', KEYS[1])), told(redis.pcall('SET', KEYS[1], '0', 'XX'))}";

/// The commands of the record's script. `HSET` is refused for its arguments, after rights were checked.
const RECORD_SCRIPT: &str = "local function told(reply) return type(reply) == 'table' and reply.err or '' end
return {told(redis.pcall('HSET', KEYS[1], 'applied', '0', 'settled')), told(redis.pcall('HGET', KEYS[1], 'writer'))}";

/// A right that coherd needs.
pub(super) struct Right {
    pub(super) code: Code,
    /// What is not possible without it.
    pub(super) why: &'static str,
    /// The rule for `ACL SETUSER`, quoted for a shell.
    pub(super) grant: &'static str,
}

const fn right(code: Code, why: &'static str, grant: &'static str) -> Right {
    Right { code, why, grant }
}

const UNLINK: Right = right(Code::ACL_UNLINK, "it may not UNLINK, so coherd cannot delete any key", "+unlink");
const HSET: Right = right(Code::ACL_HSET, "it may not HSET, so coherd writes no record and nothing settles", "+hset");
const HGET: Right = right(
    Code::ACL_HGET,
    "it may not HGET, so coherd cannot compare the record, writes none, and nothing settles",
    "+hget",
);
const HGETALL: Right =
    right(Code::ACL_HGETALL, "it may not HGETALL, so coherd cannot read the record and sends nothing", "+hgetall");
const DBSIZE: Right =
    right(Code::ACL_DBSIZE, "it may not DBSIZE, so coherd cannot tell an emptied cache from a full one", "+dbsize");
const SCAN: Right = right(Code::ACL_SCAN, "it may not SCAN, so coherd cannot flush after a gap", "+scan");
const EVAL: Right = right(Code::ACL_EVAL, "it may not EVAL, so coherd writes no record and nothing settles", "+eval");
const EVALSHA: Right =
    right(Code::ACL_EVALSHA, "it may not EVALSHA, so coherd writes no record and nothing settles", "+evalsha");
const TIME: Right = right(Code::ACL_TIME, "it may not TIME, which coherd needs to move a version pointer", "+time");
const GET: Right = right(Code::ACL_GET, "it may not GET, which coherd needs to move a version pointer", "+get");
const SET: Right = right(Code::ACL_SET, "it may not SET, which coherd needs to move a version pointer", "+set");
const PUBLISH: Right = right(Code::ACL_PUBLISH, "it may not PUBLISH, which publish rules need", "+publish");
const LIST: Right = right(
    Code::ACL_FUNCTION_LIST,
    "it may not FUNCTION LIST, so coherd does not load readers' functions",
    "'+function|list'",
);
const LOAD: Right = right(
    Code::ACL_FUNCTION_LOAD,
    "it may not FUNCTION LOAD, so coherd does not load readers' functions",
    "'+function|load'",
);

/// The command to try.
enum Tried {
    Unlink { key: String, pattern: String },
    UnlinkLeases { key: String, pattern: String },
    WriteRecord { key: String },
    WriteRecordSha { key: String },
    ReadRecord { key: String },
    Count,
    Scan,
    Eval { key: String, pattern: String },
    EvalSha { key: String, pattern: String },
    Publish { channel: String },
    List,
    Load,
}

/// One command to try.
pub(super) struct Probe {
    tried: Tried,
    pub(super) step: Step,
}

/// Every probe except those for `PUBLISH` and `FUNCTION LOAD`.
pub(super) fn probes(config: &TargetConfig, needs: &Needs) -> Vec<Probe> {
    let record = || config.record_key.clone();
    let mut all = vec![
        Probe { tried: Tried::ReadRecord { key: record() }, step: Step::ReadRecord },
        Probe { tried: Tried::Count, step: Step::Count },
        Probe { tried: Tried::Scan, step: Step::Scan },
        Probe { tried: Tried::WriteRecordSha { key: record() }, step: Step::WriteRecord },
        Probe { tried: Tried::WriteRecord { key: record() }, step: Step::WriteRecord },
    ];
    for sample in &needs.samples {
        let (key, pattern) = (sample.key.clone(), sample.pattern.clone());
        match sample.action {
            Action::Delete => {
                if config.leases {
                    let tried = Tried::UnlinkLeases { key: key.clone(), pattern: pattern.clone() };
                    all.push(Probe { tried, step: Step::UnlinkLeases });
                }
                all.push(Probe { tried: Tried::Unlink { key, pattern }, step: Step::Unlink });
            }
            Action::Bump => {
                // If memory is full, the bump script unlinks the pointer before it sets it.
                let (pointer, pointers) = (format!("{key}{POINTER_SUFFIX}"), format!("{pattern}{POINTER_SUFFIX}"));
                all.push(Probe { tried: Tried::Unlink { key: pointer, pattern: pointers }, step: Step::Unlink });
                let tried = Tried::EvalSha { key: key.clone(), pattern: pattern.clone() };
                all.push(Probe { tried, step: Step::Bump });
                all.push(Probe { tried: Tried::Eval { key, pattern }, step: Step::Bump });
            }
            Action::Publish => {}
        }
    }
    if config.leases || needs.has(Action::Bump) {
        all.push(Probe { tried: Tried::List, step: Step::ListFunctions });
    }
    all
}

impl Probe {
    /// `PUBLISH`, to be queued and discarded.
    pub(super) fn publish(config: &TargetConfig) -> Probe {
        Probe { tried: Tried::Publish { channel: config.channel.clone() }, step: Step::Publish }
    }

    /// `FUNCTION LOAD` of a text that is no library.
    pub(super) fn load() -> Probe {
        Probe { tried: Tried::Load, step: Step::LoadFunctions }
    }

    /// The command to send.
    pub(super) fn command(&self) -> Cmd {
        let one = |name: &str| redis::cmd(name);
        match &self.tried {
            Tried::Unlink { key, .. } => unlink(&[key.as_bytes()]),
            Tried::UnlinkLeases { key, .. } => unlink_leases(&[key.as_bytes()]),
            Tried::WriteRecord { key } => one("EVAL").arg(RECORD_SCRIPT).arg(1).arg(key).to_owned(),
            // Nobody has loaded such a script.
            Tried::WriteRecordSha { key } => one("EVALSHA").arg(sha1_of(key)).arg(1).arg(key).to_owned(),
            Tried::ReadRecord { key } => one("HGETALL").arg(key).to_owned(),
            Tried::Count => one("DBSIZE"),
            Tried::Scan => one("SCAN").arg(0).arg("COUNT").arg(1).to_owned(),
            Tried::Eval { key, .. } => script(one("EVAL"), SCRIPT, key),
            // Nobody has loaded such a script.
            Tried::EvalSha { key, .. } => script(one("EVALSHA"), &sha1_of(key), key),
            Tried::Publish { channel } => one("PUBLISH").arg(channel).arg("").to_owned(),
            Tried::List => super::list(),
            Tried::Load => one("FUNCTION").arg("LOAD").arg("x").to_owned(),
        }
    }

    /// Whether an error is the one that the probe provokes, or one that is checked elsewhere.
    pub(super) fn provokes(&self, error: &Told) -> bool {
        match &self.tried {
            // These are not about rights, and memory is checked elsewhere: the script goes on if it is full.
            Tried::WriteRecord { .. } => {
                error.details.contains("wrong number of arguments")
                    || error.code == "OOM"
                    || error.code == "WRONGTYPE"
                    || error.details.contains("OOM")
            }
            Tried::Eval { .. } => error.code == "OOM" || error.details.contains("OOM"),
            Tried::ReadRecord { .. } => error.code == "WRONGTYPE",
            Tried::EvalSha { .. } | Tried::WriteRecordSha { .. } => error.code == "NOSCRIPT",
            Tried::List | Tried::Load => error.code == "ERR",
            _ => false,
        }
    }

    /// The right that is missing if the command is refused with `details`.
    pub(super) fn right(&self, details: &str) -> &'static Right {
        match &self.tried {
            Tried::Unlink { .. } | Tried::UnlinkLeases { .. } => &UNLINK,
            Tried::WriteRecord { .. } if details.starts_with("HSET|") => &HSET,
            Tried::WriteRecord { .. } if details.starts_with("HGET|") => &HGET,
            Tried::WriteRecord { .. } => &EVAL,
            Tried::WriteRecordSha { .. } => &EVALSHA,
            Tried::ReadRecord { .. } => &HGETALL,
            Tried::Count => &DBSIZE,
            Tried::Scan => &SCAN,
            Tried::EvalSha { .. } => &EVALSHA,
            Tried::Publish { .. } => &PUBLISH,
            Tried::List => &LIST,
            Tried::Load => &LOAD,
            // A refusal inside the script has the command's name before its text.
            Tried::Eval { .. } => match details.split_once('|').map_or(details, |(step, _)| step) {
                "TIME" => &TIME,
                "GET" => &GET,
                "SET" => &SET,
                _ => &EVAL,
            },
        }
    }

    /// The key patterns that the user needs for the command, as `ACL SETUSER` takes them.
    pub(super) fn patterns(&self, config: &TargetConfig) -> Vec<String> {
        let record = || vec![shell_word(&format!("~{}", config.record_key))];
        match &self.tried {
            Tried::Unlink { pattern, .. } => vec![shell_word(&format!("~{pattern}"))],
            Tried::UnlinkLeases { pattern, .. } => {
                vec![
                    shell_word(&format!("~{pattern}{LEASE_SUFFIX}")),
                    shell_word(&format!("~{{{pattern}}}{LEASE_SUFFIX}")),
                ]
            }
            Tried::Eval { pattern, .. } | Tried::EvalSha { pattern, .. } => {
                vec![shell_word(&format!("~{pattern}{POINTER_SUFFIX}"))]
            }
            Tried::WriteRecord { .. } | Tried::WriteRecordSha { .. } | Tried::ReadRecord { .. } => record(),
            Tried::Count | Tried::Scan | Tried::Publish { .. } | Tried::List | Tried::Load => Vec::new(),
        }
    }

    /// The errors in a reply: the reply itself, or the errors that a script caught, each with the command's name before
    /// its text.
    pub(super) fn errors(&self, reply: &Value) -> Vec<Told> {
        if let Some(error) = Told::of(reply) {
            return vec![error];
        }
        let (steps, replies): (&[&str], _) = match (&self.tried, reply) {
            (Tried::Eval { .. }, Value::Array(replies)) => (&["TIME", "GET", "SET"], replies),
            (Tried::WriteRecord { .. }, Value::Array(replies)) => (&["HSET", "HGET"], replies),
            _ => return Vec::new(),
        };
        let caught = |(step, reply): (&str, &Value)| {
            let text = match reply {
                Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                Value::SimpleString(text) => text.clone(),
                _ => String::new(),
            };
            let error = Told::in_script(&text);
            (!text.is_empty()).then(|| Told { details: format!("{step}|{}", error.details), ..error })
        };
        steps.iter().copied().zip(replies).filter_map(caught).collect()
    }
}

fn script(mut command: Cmd, script: &str, key: &str) -> Cmd {
    command.arg(script).arg(1).arg(Pointer(key.as_bytes(), Naming::OfKey));
    command
}
