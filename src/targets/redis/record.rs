//! The record: a hash of decimal numbers that any client can read (`HGET coherd:<slot> settled`), and the marks of the
//! rules. This file calls the script and reads the hash. `lua/record.lua` compares and writes, and
//! [`chain`](super::chain) decides what it compares with.

use std::collections::HashMap;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use redis::{Cmd, Value};

use super::chain::{Expected, Read};
use super::script::{RECORD_SOURCE, Script};
use crate::targets::Record;
use crate::types::lsn::Lsn;
use crate::types::record::{SEQUENCE_MAX, Written};
use crate::types::snapshot::Commit;

/// A call of the script that writes the record over what is expected there.
pub(super) fn write(script: Script, key: &str, record: &Record, expected: &Expected) -> Cmd {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut command = script.begin(&RECORD_SOURCE, 32, key.len() + 400);
    let Expected { writer, sequences, read } = expected;
    command.arg(1).arg(key);
    command.arg(writer).arg(sequences.start()).arg(sequences.end()).arg(&read.writer).arg(&read.sequence);
    command.arg("writer").arg(writer);
    command.arg("applied").arg(record.applied.as_u64());
    command.arg("confirmed").arg(record.confirmed.as_u64());
    command.arg("settled").arg(record.settled.as_u64());
    command.arg("system_id").arg(record.system_id);
    command.arg("timeline").arg(record.timeline);
    command.arg("sequence").arg(record.sequence);
    command.arg("updated_ms").arg(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
    if let Some(Commit { xid, at }) = record.commit {
        command.arg("commit_lsn").arg(at.as_u64()).arg("commit_xid").arg(xid);
    }
    if let Some(rules) = &record.rules {
        command.arg("rules").arg(&**rules);
    }
    command
}

/// Why a stored record cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// The reply is not a hash.
    Shape,
    /// The field is missing, or is not a number in its range.
    Field(&'static str),
}

/// Reads the reply to `HGETALL`; an empty hash means that there is no record.
pub(super) fn read(reply: &Value) -> Result<Option<Record>, Unreadable> {
    let pairs = reply.as_map_iter().ok_or(Unreadable::Shape)?;
    let fields: HashMap<&[u8], &[u8]> = pairs.filter_map(|(name, value)| Some((bytes(name)?, bytes(value)?))).collect();
    if fields.is_empty() {
        return Ok(None);
    }
    let settled = number(&fields, "settled")?;
    // What has settled is also confirmed. The second names are those of earlier builds.
    let confirmed = match ["confirmed", "struck"].into_iter().find(|name| fields.contains_key(name.as_bytes())) {
        Some(name) => number(&fields, name)?,
        None => settled,
    };
    let rules = fields.get(b"rules".as_slice()).or_else(|| fields.get(b"marks".as_slice()));
    Ok(Some(Record {
        applied: Lsn::new(number(&fields, "applied")?),
        confirmed: Lsn::new(confirmed),
        settled: Lsn::new(settled),
        system_id: number(&fields, "system_id")?,
        timeline: number(&fields, "timeline")?,
        sequence: sequence(&fields)?,
        commit: match (number(&fields, "commit_lsn"), number(&fields, "commit_xid")) {
            (Ok(at), Ok(xid)) => Some(Commit { xid, at: Lsn::new(at) }),
            _ => None,
        },
        rules: rules.map(|rules| String::from_utf8_lossy(rules).into()),
    }))
}

/// The field `sequence`; zero if the record has none.
fn sequence(fields: &HashMap<&[u8], &[u8]>) -> Result<u64, Unreadable> {
    if !fields.contains_key(b"sequence".as_slice()) {
        return Ok(0);
    }
    let sequence = number(fields, "sequence")?;
    if sequence <= SEQUENCE_MAX { Ok(sequence) } else { Err(Unreadable::Field("sequence")) }
}

/// Who wrote the record, and when.
pub(super) fn written(reply: &Value) -> Option<Written> {
    let pairs = reply.as_map_iter()?;
    let fields: HashMap<&[u8], &[u8]> = pairs.filter_map(|(name, value)| Some((bytes(name)?, bytes(value)?))).collect();
    let slot = fields.get(b"slot".as_slice()).map(|slot| String::from_utf8_lossy(slot).into());
    Some(Written { updated_ms: number(&fields, "updated_ms").unwrap_or_default(), slot })
}

/// What identifies the record when a delivery writes over it.
pub(super) fn identity(reply: &Value) -> Read {
    let Some(pairs) = reply.as_map_iter() else { return Read::of_another_type() };
    let fields: HashMap<&[u8], &[u8]> = pairs.filter_map(|(name, value)| Some((bytes(name)?, bytes(value)?))).collect();
    let text = |name: &[u8]| fields.get(name).map(|value| value.to_vec()).unwrap_or_default();
    Read { writer: text(b"writer"), sequence: text(b"sequence") }
}

fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}

fn number<T: FromStr>(fields: &HashMap<&[u8], &[u8]>, name: &'static str) -> Result<T, Unreadable> {
    let text = fields.get(name.as_bytes()).and_then(|value| std::str::from_utf8(value).ok());
    let digits = text.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|text| text.parse().ok()).ok_or(Unreadable::Field(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(fields: &[(&str, &str)]) -> Value {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        Value::Array(fields.iter().flat_map(|(name, value)| [bulk(name), bulk(value)]).collect())
    }

    const WHOLE: [(&str, &str); 6] = [
        ("applied", "97500059720"),
        ("confirmed", "97500059001"),
        ("settled", "97500059000"),
        ("system_id", "18446744073709551615"),
        ("timeline", "3"),
        ("updated_ms", "1790000000000"),
    ];

    #[test]
    fn a_whole_record_is_read_and_an_empty_hash_is_none() {
        let record = read(&hash(&WHOLE)).unwrap().unwrap();
        assert_eq!(record.applied, "16/B374D848".parse().unwrap());
        assert_eq!((record.confirmed.as_u64(), record.settled.as_u64()), (97_500_059_001, 97_500_059_000));
        assert_eq!((record.system_id, record.timeline), (u64::MAX, 3));
        assert_eq!((record.rules, record.sequence), (None, 0));
        assert_eq!(read(&hash(&[])), Ok(None));
        let more: Vec<_> = WHOLE.into_iter().chain([("rules", "1f 2e"), ("sequence", "17")]).collect();
        let record = read(&hash(&more)).unwrap().unwrap();
        assert_eq!((record.rules.as_deref(), record.sequence), (Some("1f 2e"), 17));
    }

    #[test]
    fn a_field_that_is_missing_or_no_number_is_named() {
        for (index, name) in ["applied", "confirmed", "settled", "system_id", "timeline"].into_iter().enumerate() {
            let mut fields = WHOLE.to_vec();
            for wrong in ["", "x", "-1", "+1", "1.5", "99999999999999999999"] {
                fields[index].1 = wrong;
                assert_eq!(read(&hash(&fields)), Err(Unreadable::Field(name)), "{wrong:?}");
            }
            fields.remove(index);
            match read(&hash(&fields)) {
                Ok(Some(record)) => assert_eq!((name, record.confirmed), ("confirmed", record.settled)),
                other => assert_eq!(other, Err(Unreadable::Field(name))),
            }
        }
        assert_eq!(read(&Value::Int(1)), Err(Unreadable::Shape));
    }

    #[test]
    fn a_sequence_that_nothing_could_follow_is_no_sequence() {
        let with = |sequence| hash(&[&WHOLE[..], &[("sequence", sequence)]].concat());
        assert_eq!(read(&with("9007199254740992")).unwrap().unwrap().sequence, SEQUENCE_MAX);
        for beyond in ["9007199254740993", "18446744073709551615"] {
            assert_eq!(read(&with(beyond)), Err(Unreadable::Field("sequence")), "{beyond}");
        }
    }

    #[test]
    fn a_record_of_an_earlier_build_is_read_under_its_own_names() {
        let mut fields = WHOLE.map(|(name, value)| (if name == "confirmed" { "struck" } else { name }, value)).to_vec();
        fields.push(("marks", "1f 2e"));
        let record = read(&hash(&fields)).unwrap().unwrap();
        assert_eq!((record.confirmed.as_u64(), record.rules.as_deref()), (97_500_059_001, Some("1f 2e")));
        fields.extend([("confirmed", "97500059002"), ("rules", "3d")]);
        let record = read(&hash(&fields)).unwrap().unwrap();
        assert_eq!((record.confirmed.as_u64(), record.rules.as_deref()), (97_500_059_002, Some("3d")));
    }
}
