//! Encodes and decodes, feeds arbitrary bytes, and cuts a valid message at every length. `tests/pgoutput.rs` decodes
//! fixtures from a real server.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::{DecodeError, Message, decode, encode};
use crate::types::change::{Change, Column, OldImage, Relation, ReplicaIdentity, Row};

type Values = Vec<Option<Option<Vec<u8>>>>;

fn values() -> impl Strategy<Value = Values> {
    vec(option::of(option::of(vec(any::<u8>(), 0..40))), 0..20)
}

fn as_row<'a>(values: &Values, cells: &'a [u8]) -> Row<'a> {
    Row::new(u16::try_from(values.len()).unwrap(), cells)
}

fn relation() -> impl Strategy<Value = Relation> {
    let column = ("[^\0]{1,20}", any::<u32>(), any::<bool>()).prop_map(|(name, type_oid, in_identity)| Column {
        name,
        type_oid,
        in_identity,
    });
    let identity = prop_oneof![
        Just(ReplicaIdentity::Default),
        Just(ReplicaIdentity::Nothing),
        Just(ReplicaIdentity::Full),
        Just(ReplicaIdentity::Index)
    ];
    (any::<u32>(), "[^\0]{1,20}", "[^\0]{1,20}", identity, vec(column, 0..20))
        .prop_map(|(oid, schema, name, identity, columns)| Relation { oid, schema, name, identity, columns })
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(oid: u32, old in values(), new in values(), kind in 0..6) {
        let (old_cells, new_cells) = (encode::cells(&old), encode::cells(&new));
        let (old, new) = (as_row(&old, &old_cells), as_row(&new, &new_cells));
        let change = match kind {
            0 => Change::Insert { new },
            1 => Change::Update { old: OldImage::Absent, new },
            2 => Change::Update { old: OldImage::Key(old), new },
            3 => Change::Update { old: OldImage::Full(old), new },
            4 => Change::Delete { old: OldImage::Key(old) },
            _ => Change::Delete { old: OldImage::Full(old) },
        };
        let bytes = encode::change(oid, change);
        prop_assert_eq!(decode(&bytes), Ok(Message::Change { relation: oid, change }));
        for cut in 0..bytes.len() {
            prop_assert!(decode(&bytes[..cut]).is_err(), "cut at {}", cut);
        }
    }

    #[test]
    fn a_relation_survives_the_way_there_and_back(relation in relation()) {
        let bytes = encode::relation(&relation);
        prop_assert_eq!(decode(&bytes), Ok(Message::Relation(relation)));
    }

    #[test]
    fn no_bytes_make_it_panic(kind in prop::sample::select(b"BCORYIUDTMSEcAbPKrp".to_vec()), rest in vec(any::<u8>(), 0..200)) {
        let mut bytes = vec![kind];
        bytes.extend(rest);
        if let Ok(Message::Change { change: Change::Insert { new }, .. }) = decode(&bytes) {
            prop_assert_eq!(new.cells().count(), new.len());
        }
    }
}

#[test]
fn errors_name_the_message_and_the_field() {
    let text = |bytes: &[u8]| decode(bytes).unwrap_err().to_string();
    insta::assert_snapshot!(text(b""), @"an empty pgoutput message");
    insta::assert_snapshot!(text(b"B\0\0"), @"pgoutput message 'B' ends inside its final LSN");
    insta::assert_snapshot!(text(b"Q"), @"pgoutput message 'Q' has 'Q' as its type");
    insta::assert_snapshot!(text(b"I\0\0\0\x01N\0\x01b"), @"pgoutput message 'I' has 'b' as its column's kind");
    insta::assert_snapshot!(text(b"I\0\0\0\x01N\0\0!"), @"pgoutput message 'I' has 1 bytes too many");
    insta::assert_snapshot!(text(b"D\0\0\0\x01N\0\0"), @"pgoutput message 'D' has 'N' as its old row's kind");
    assert_eq!(decode(b"T\xFF\xFF\xFF\xFF\0"), Err(DecodeError::Short { message: 'T', field: "relation oids" }));
}
