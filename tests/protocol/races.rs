//! Every interleaving of readers, a change and an eviction, run on a real server.

use super::{Form, Got, NONCE, Reader, in_each_form_on, lease_of};
use crate::support::Redis;

/// One step. The steps of one actor keep their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Reader `.0` calls the cache and keeps the reply.
    Ask(usize),
    /// Reader `.0` reads the database, if it has to.
    Read(usize),
    /// Reader `.0` fills, if it has read the database.
    Fill(usize),
    Commit,
    InvalidateLease,
    InvalidateKey,
    EvictLease,
    EvictKey,
}

/// How readers store what they have read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Lease,
    PlainSet,
}

#[derive(Default, Clone)]
struct Mind {
    token: Option<Vec<u8>>,
    read: Option<&'static [u8]>,
}

const KEY: &[u8] = b"k";

/// Runs one order. Returns whether an old value was served or is cached after the change was invalidated.
fn is_stale(reader: &mut Reader, protocol: Protocol, order: &[Step]) -> bool {
    let lease = lease_of(KEY);
    reader.unlink(KEY);
    reader.unlink(&lease);
    let mut minds = [Mind::default(), Mind::default()];
    let mut row: &'static [u8] = b"old";
    let mut invalidations = 0;
    for step in order {
        match *step {
            Step::Ask(who) => {
                let nonce = format!("{NONCE}{who}");
                match reader.get_as(KEY, &nonce) {
                    Got::Value(value) if invalidations == 2 && value == b"old" => return true,
                    Got::Value(_) => {}
                    Got::Lease { token, .. } => minds[who].token = Some(token),
                }
            }
            Step::Read(who) => minds[who].read = minds[who].token.as_ref().map(|_| row),
            Step::Fill(who) => {
                if let Mind { token: Some(token), read: Some(value) } = minds[who].clone() {
                    if protocol == Protocol::Lease {
                        reader.fill(KEY, &token, value);
                    } else {
                        let () = redis::cmd("SET").arg(KEY).arg(value).query(&mut reader.connection).unwrap();
                    }
                }
            }
            Step::Commit => row = b"new",
            Step::InvalidateLease | Step::InvalidateKey => {
                invalidations += 1;
                reader.unlink(if *step == Step::InvalidateLease { &lease } else { KEY });
            }
            Step::EvictLease => drop(reader.unlink(&lease)),
            Step::EvictKey => drop(reader.unlink(KEY)),
        }
    }
    reader.raw(KEY).is_some_and(|value| value == b"old")
}

/// Calls `found` with every merge of `actors`, until it returns true.
fn any_order(actors: &mut [&[Step]], order: &mut Vec<Step>, found: &mut impl FnMut(&[Step]) -> bool) -> bool {
    if actors.iter().all(|steps| steps.is_empty()) {
        return found(order);
    }
    for actor in 0..actors.len() {
        if let Some((step, rest)) = actors[actor].split_first() {
            let whole = std::mem::replace(&mut actors[actor], rest);
            order.push(*step);
            let stop = any_order(actors, order, found);
            order.pop();
            actors[actor] = whole;
            if stop {
                return true;
            }
        }
    }
    false
}

/// The first order that ends with a stale value, and how many orders were run.
fn search(reader: &mut Reader, protocol: Protocol, writer: &[Step], evict: &[Step]) -> (Option<Vec<Step>>, usize) {
    let first = [Step::Ask(0), Step::Read(0), Step::Fill(0)];
    let second = [Step::Ask(1), Step::Read(1), Step::Fill(1)];
    let (mut culprit, mut played) = (None, 0);
    any_order(&mut [&first, &second, writer, evict], &mut Vec::new(), &mut |order| {
        played += 1;
        let stale = is_stale(reader, protocol, order);
        if stale {
            culprit = Some(order.to_vec());
        }
        stale
    });
    (culprit, played)
}

const INVALIDATE: [Step; 3] = [Step::Commit, Step::InvalidateLease, Step::InvalidateKey];

#[test]
fn no_order_of_two_readers_a_change_and_an_eviction_leaves_an_old_value() {
    let server = Redis::start();
    in_each_form_on(&server, |reader| {
        assert_eq!(search(reader, Protocol::Lease, &INVALIDATE, &[]), (None, 1_680));
        // One full run is enough: the other form runs the same functions.
        let evictions = if reader.form == Form::Function { [Step::EvictLease, Step::EvictKey].as_slice() } else { &[] };
        for evict in evictions {
            assert_eq!(search(reader, Protocol::Lease, &INVALIDATE, &[*evict]), (None, 16_800));
        }
    });
}

#[test]
fn the_search_finds_what_goes_wrong_with_a_plain_set_or_with_the_key_invalidated_before_its_lease() {
    let server = Redis::start();
    in_each_form_on(&server, |reader| {
        let (culprit, _) = search(reader, Protocol::PlainSet, &INVALIDATE, &[]);
        assert!(culprit.is_some(), "a slow reader");
        let reversed = [Step::Commit, Step::InvalidateKey, Step::InvalidateLease];
        let (culprit, _) = search(reader, Protocol::Lease, &reversed, &[]);
        assert!(culprit.is_some(), "a fill between the two");
    });
}
