//! What the sieve keeps of a message, whatever pieces the message comes in.

use super::encode;
use super::sieve::Sieve;
use super::{Message, decode};
use crate::types::change::{Cell, Change, OldImage, Row};

const HEAD: &[u8] = b"w1234567812345678";

fn sieved(message: &[u8], piece: usize) -> Vec<u8> {
    let whole = [HEAD, message].concat();
    let mut sieve = Sieve::new(HEAD.len(), 100);
    whole.chunks(piece).for_each(|piece| sieve.read(piece).unwrap());
    sieve.finish().strip_prefix(HEAD).expect("the head").to_vec()
}

fn logical(prefix: &[u8], content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    [b"M\x01\0\0\0\0\0\0\0\x07", prefix, b"\0", &length, content].concat()
}

#[test]
fn a_row_keeps_all_but_what_is_too_large() {
    let large = vec![b'x'; (1 << 20) + 1];
    let small = || Some(Some(b"small".to_vec()));
    let cells = encode::cells(&[small(), Some(Some(large)), None, Some(None), Some(Some(Vec::new())), small()]);
    let row = || Row::new(6, &cells);
    let all = [
        Change::Insert { new: row() },
        Change::Update { old: OldImage::Absent, new: row() },
        Change::Update { old: OldImage::Full(row()), new: row() },
        Change::Delete { old: OldImage::Key(row()) },
    ];
    let left = [Cell::Text(b"small"), Cell::Cut, Cell::Unchanged, Cell::Null, Cell::Text(b""), Cell::Text(b"small")];
    for change in all {
        let message = encode::change(7, change);
        for piece in [1, 7, 4096, message.len() + HEAD.len()] {
            let kept = sieved(&message, piece);
            let Ok(Message::Change { relation: 7, change: read }) = decode(&kept) else { panic!("{kept:?}") };
            let rows = match read {
                Change::Insert { new } | Change::Update { old: OldImage::Absent, new } => vec![new],
                Change::Update { old: OldImage::Full(old), new } => vec![old, new],
                Change::Delete { old: OldImage::Key(old) } => vec![old],
                other => panic!("{other:?}"),
            };
            assert_eq!(std::mem::discriminant(&read), std::mem::discriminant(&change));
            for row in rows {
                assert_eq!(row.cells().collect::<Vec<_>>(), left);
            }
        }
    }
}

#[test]
fn many_values_that_are_too_much_together_are_cut_too() {
    let cells = encode::cells(&vec![Some(Some(vec![b'x'; 1 << 20])); 9]);
    let kept = sieved(&encode::change(7, Change::Insert { new: Row::new(9, &cells) }), 1 << 16);
    assert!(kept.len() < 5 << 20, "{}", kept.len());
    let Ok(Message::Change { change: Change::Insert { new }, .. }) = decode(&kept) else { panic!() };
    let cut = new.cells().filter(|cell| *cell == Cell::Cut).count();
    assert_eq!((new.cells().count(), cut), (9, 6));
}

#[test]
fn of_a_logical_message_as_much_is_left_as_shows_that_it_is_too_large() {
    for (prefix, length) in [(&b"coherd"[..], 101), (b"coherd", 5_000), (&[b'p'; 1_000], 5_000), (b"", 100)] {
        for piece in [1, 7, 6_100] {
            let kept = sieved(&logical(prefix, &vec![b'c'; length]), piece);
            let Ok(Message::Logical { prefix: read, content, transactional: true, .. }) = decode(&kept) else {
                panic!()
            };
            assert!(prefix.starts_with(read.as_bytes()) && (read.len() == prefix.len() || read.len() == 64));
            assert_eq!(content.len(), length.min(101));
        }
    }
}

#[test]
fn what_is_cut_short_or_goes_on_is_refused_by_the_decoder() {
    let whole = logical(b"coherd", &[b'c'; 50]);
    assert!(decode(&sieved(&whole[..whole.len() - 1], 3)).is_err());
    let cells = encode::cells(&[Some(Some(b"v".to_vec()))]);
    let row = encode::change(7, Change::Insert { new: Row::new(1, &cells) });
    assert!(decode(&sieved(&row[..row.len() - 1], 3)).is_err());
    assert!(decode(&sieved(&[&row[..], b"more"].concat(), 3)).is_err());
}

#[test]
fn what_is_never_large_is_not_read_and_no_message_grows_without_end() {
    for kind in [b'R', b'B', b'C', b'T', b'Y', b'O', b'x'] {
        assert!(Sieve::new(0, 100).read(&[kind, 0, 0]).is_err());
    }
    // As many bytes as the sieve keeps, followed by cells without a value.
    let mut sieve = Sieve::new(0, 100);
    sieve.read(b"I\0\0\0\x07N\xFF\xFF").unwrap();
    let large = [&b"t\x00\x10\x00\x00"[..], &vec![b'x'; 1 << 20]].concat();
    (0..4).for_each(|_| sieve.read(&large).unwrap());
    let ended = (0..2_000).any(|_| sieve.read(&[b'n'; 1_000]).is_err());
    assert!(ended && sieve.finish().len() < 5 << 20);
}
