//! Turns a batch into pipelines: few commands of many keys, each pipeline small enough to hold twice in memory.

use std::iter::Peekable;

use redis::{Cmd, Pipeline, RedisWrite, ToRedisArgs};

use super::reply::Step;
use super::script::Script;
use crate::types::invalidation::{Action, Batch};

/// The most keys of one `UNLINK` or one call of the bump script. Redis does nothing else while it runs: about 1 ms for
/// pointers, less for keys.
pub(super) const COMMAND_KEYS_MAX: usize = 512;

/// The most keys of one pipeline.
const PIPELINE_KEYS_MAX: usize = 8192;

/// Bytes of key text after which a pipeline gets no further command.
const PIPELINE_BYTES_MAX: usize = 256 << 10;

/// A pipeline, and what each of its replies means.
#[derive(Default)]
pub(super) struct Salvo {
    pub(super) pipeline: Pipeline,
    pub(super) steps: Vec<Step>,
}

impl Salvo {
    pub(super) fn push(&mut self, step: Step, command: Cmd) {
        self.pipeline.add_command(command);
        self.steps.push(step);
    }
}

/// How invalidations are sent.
pub(super) struct Manner<'a> {
    pub(super) bump: Script,
    pub(super) version_ttl_ms: u64,
    pub(super) channel: &'a str,
    /// Whether a deleted key's lease is deleted too.
    pub(super) leases: bool,
}

/// The keys of a batch that are still to be sent.
pub(super) struct Invalidations<'a, D: Iterator, B: Iterator, P: Iterator> {
    deletes: Peekable<D>,
    bumps: Peekable<B>,
    publishes: Peekable<P>,
    /// The keys of the command being built.
    taken: Vec<&'a [u8]>,
}

/// Every key of `batch`.
pub(super) fn invalidations(
    batch: &Batch,
) -> Invalidations<
    '_,
    impl Iterator<Item = &[u8]> + Send,
    impl Iterator<Item = &[u8]> + Send,
    impl Iterator<Item = &[u8]> + Send,
> {
    Invalidations {
        deletes: batch.keys(Action::Delete).peekable(),
        bumps: batch.keys(Action::Bump).peekable(),
        publishes: batch.keys(Action::Publish).peekable(),
        taken: Vec::with_capacity(batch.len().min(COMMAND_KEYS_MAX)),
    }
}

impl<'a, D, B, P> Invalidations<'a, D, B, P>
where
    D: Iterator<Item = &'a [u8]>,
    B: Iterator<Item = &'a [u8]>,
    P: Iterator<Item = &'a [u8]>,
{
    /// Whether every key has been loaded.
    pub(super) fn are_spent(&mut self) -> bool {
        self.deletes.peek().is_none() && self.bumps.peek().is_none() && self.publishes.peek().is_none()
    }

    /// The next pipeline; empty if every key has been loaded.
    pub(super) fn load(&mut self, manner: &Manner<'_>) -> Salvo {
        let mut salvo = Salvo::default();
        let (mut keys, mut bytes) = (0, 0);
        while keys < PIPELINE_KEYS_MAX && bytes < PIPELINE_BYTES_MAX && !self.are_spent() {
            self.taken.clear();
            if self.deletes.peek().is_some() {
                self.taken.extend(self.deletes.by_ref().take(COMMAND_KEYS_MAX));
                if manner.leases {
                    salvo.push(Step::UnlinkLeases, unlink_leases(&self.taken));
                    keys += self.taken.len();
                    bytes += size(&self.taken);
                }
                salvo.push(Step::Unlink, unlink(&self.taken));
            } else if self.bumps.peek().is_some() {
                self.taken.extend(self.bumps.by_ref().take(COMMAND_KEYS_MAX));
                salvo.push(Step::Bump, manner.bump.call(&self.taken, Naming::OfKey, manner.version_ttl_ms));
            } else if let Some(key) = self.publishes.next() {
                self.taken.push(key);
                salvo.push(Step::Publish, publish(manner.channel, key));
            }
            keys += self.taken.len();
            bytes += size(&self.taken);
        }
        salvo
    }
}

fn size(keys: &[&[u8]]) -> usize {
    keys.iter().map(|key| key.len()).sum()
}

/// `UNLINK` of all `keys`.
pub(super) fn unlink<K: AsRef<[u8]>>(keys: &[K]) -> Cmd {
    let bytes: usize = keys.iter().map(|key| key.as_ref().len()).sum();
    let mut command = Cmd::with_capacity(keys.len() + 1, bytes + 6);
    command.arg("UNLINK");
    for key in keys {
        command.arg(key.as_ref());
    }
    command
}

/// `UNLINK` of the leases of all `keys`, which precedes the `UNLINK` of the keys themselves.
///
/// Between the two, a reader still gets the old value, or a new lease whose holder reads the database after this
/// invalidation. In the other order, a reader with a lease from before the change could store the old value again.
/// There are two commands so that the reply of the second counts keys only.
pub(super) fn unlink_leases(keys: &[&[u8]]) -> Cmd {
    let bytes: usize = keys.iter().map(|key| key.len() + LEASE_SUFFIX.len() + 2).sum();
    let mut command = Cmd::with_capacity(keys.len() + 1, bytes + 6);
    command.arg("UNLINK");
    for key in keys {
        command.arg(Lease(key));
    }
    command
}

/// `PUBLISH` of one key.
pub(super) fn publish(channel: &str, key: &[u8]) -> Cmd {
    let mut command = Cmd::with_capacity(3, channel.len() + key.len() + 7);
    command.arg("PUBLISH").arg(channel).arg(key);
    command
}

/// What the names in a call of the bump script are made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    /// Keys whose pointers are to move.
    OfKey,
    /// The pointers themselves.
    OfPointer,
}

/// The suffix that turns a key's name into the name of its version pointer.
pub(super) const POINTER_SUFFIX: &str = ":version";

/// The name of a pointer. It is written straight into the command, without an allocation.
pub(super) struct Pointer<'a>(pub(super) &'a [u8], pub(super) Naming);

impl ToRedisArgs for Pointer<'_> {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        use std::io::Write;
        let suffix = if self.1 == Naming::OfKey { POINTER_SUFFIX } else { "" };
        let mut writer = out.writer_for_next_arg();
        // Writing into memory cannot fail.
        let _ = writer.write_all(self.0).and_then(|()| writer.write_all(suffix.as_bytes()));
    }
}

/// The suffix of a lease's name.
pub(super) const LEASE_SUFFIX: &str = ":lease";

/// The name of a key's lease, as in `lua/leases.lua`: `key:lease` if the key has a hash tag (Redis Cluster
/// specification, "Hash tags"), and `{key}:lease` otherwise.
pub(super) struct Lease<'a>(pub(super) &'a [u8]);

impl Lease<'_> {
    fn key_has_tag(&self) -> bool {
        let mut after_brace = self.0.splitn(2, |byte| *byte == b'{').skip(1);
        let close = after_brace.next().and_then(|rest| rest.iter().position(|byte| *byte == b'}'));
        close.is_some_and(|length| length > 0)
    }
}

impl ToRedisArgs for Lease<'_> {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        use std::io::Write;
        let (open, close) = if self.key_has_tag() { ("", "") } else { ("{", "}") };
        let parts = [open.as_bytes(), self.0, close.as_bytes(), LEASE_SUFFIX.as_bytes()];
        let mut writer = out.writer_for_next_arg();
        // Writing into memory cannot fail.
        let _ = parts.into_iter().try_for_each(|part| writer.write_all(part));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::invalidation::RuleId;

    fn salvos(batch: &Batch) -> Vec<Salvo> {
        salvos_with(batch, false)
    }

    fn salvos_with(batch: &Batch, leases: bool) -> Vec<Salvo> {
        let manner = Manner { bump: Script::Known, version_ttl_ms: 1000, channel: "c", leases };
        let mut left = invalidations(batch);
        let mut salvos = Vec::new();
        while !left.are_spent() {
            salvos.push(left.load(&manner));
        }
        salvos
    }

    #[test]
    fn a_hundred_thousand_keys_are_few_commands_in_several_pipelines() {
        let mut batch = Batch::default();
        for n in 0..100_000 {
            batch.push(Action::Delete, RuleId(0), format!("user:{n}").as_bytes());
        }
        let salvos = salvos(&batch);
        let commands: usize = salvos.iter().map(|salvo| salvo.steps.len()).sum();
        assert_eq!(commands, 100_000_usize.div_ceil(COMMAND_KEYS_MAX));
        assert_eq!(salvos.len(), 100_000_usize.div_ceil(PIPELINE_KEYS_MAX));
    }

    #[test]
    fn long_keys_make_small_pipelines() {
        let mut batch = Batch::default();
        for n in 0..4096 {
            batch.push(Action::Delete, RuleId(0), format!("{n:01000}").as_bytes());
        }
        assert!(salvos(&batch).iter().all(|salvo| salvo.pipeline.get_packed_pipeline().len() < 1 << 20));
    }

    #[test]
    fn what_is_allocated_is_a_matter_of_commands_and_not_of_keys() {
        let mut batch = Batch::default();
        for n in 0..PIPELINE_KEYS_MAX {
            batch.push(Action::Delete, RuleId(0), format!("user:{n}").as_bytes());
        }
        let mut packed = 0;
        let allocated = allocation_counter::measure(|| {
            packed = salvos(&batch).iter().map(|salvo| salvo.pipeline.get_packed_pipeline().len()).sum();
        });
        assert!(packed > 100_000);
        let commands = (PIPELINE_KEYS_MAX / COMMAND_KEYS_MAX) as u64;
        assert!(allocated.count_total <= 4 * commands, "{allocated:?} for {commands} commands");
    }

    #[test]
    fn each_action_is_sent_its_own_way() {
        let mut batch = Batch::default();
        for action in [Action::Publish, Action::Bump, Action::Delete] {
            batch.push(action, RuleId(0), b"k");
        }
        let salvos = salvos(&batch);
        assert_eq!(salvos[0].steps, [Step::Unlink, Step::Bump, Step::Publish]);
        let packed = String::from_utf8(salvos[0].pipeline.get_packed_pipeline()).unwrap();
        assert!(packed.contains("\r\nk:version\r\n$4\r\n1000\r\n"), "{packed}");
    }

    #[test]
    fn leases_go_right_before_their_keys_and_only_where_they_are_asked_for() {
        let mut batch = Batch::default();
        for n in 0..100_000 {
            batch.push(Action::Delete, RuleId(0), format!("user:{n}").as_bytes());
        }
        batch.push(Action::Bump, RuleId(0), b"user:1");
        let salvos = salvos_with(&batch, true);
        for salvo in &salvos {
            let mut deletes = salvo.steps.iter().filter(|step| **step != Step::Bump);
            while let Some(step) = deletes.next() {
                assert_eq!((*step, deletes.next()), (Step::UnlinkLeases, Some(&Step::Unlink)));
            }
            assert!(salvo.pipeline.get_packed_pipeline().len() < 1 << 20);
        }
        let without = |salvo: &Salvo| !salvo.steps.contains(&Step::UnlinkLeases);
        assert!(salvos_with(&batch, false).iter().all(without));
    }
}
