//! Decodes protocol version 2 (`streaming 'on'`), as far as transactions in progress need it. Such a transaction comes
//! in blocks. Every message in a block names the transaction or subtransaction that wrote it.

use super::cursor::Cursor;
use super::{DecodeError, Message, decode_body};

/// What one message says about the transactions in progress.
#[derive(Debug, Clone, PartialEq)]
pub enum Streamed<'a> {
    /// A message of a block.
    Within {
        /// The transaction, as its 32-bit id.
        transaction: u32,
        /// The subtransaction that wrote the message, or the transaction itself.
        writer: u32,
        /// What it wrote.
        message: Message<'a>,
    },
    /// `writer` was rolled back: nothing that it wrote counts.
    Aborted {
        /// The transaction.
        transaction: u32,
        /// A subtransaction, or the transaction itself.
        writer: u32,
    },
    /// The beginning or end of a block, or a message of a transaction that is sent whole.
    Other,
}

/// Reads one stream of protocol 2.
#[derive(Debug, Default)]
pub struct Blocks {
    /// The transaction whose block is being read.
    open: Option<u32>,
}

impl Blocks {
    /// Reads one message.
    pub fn read<'a>(&mut self, bytes: &'a [u8]) -> Result<Streamed<'a>, DecodeError> {
        let (&kind, rest) = bytes.split_first().ok_or(DecodeError::Empty)?;
        let mut cursor = Cursor::new(kind, rest);
        match (kind, self.open) {
            (b'S', _) => self.open = Some(cursor.u32("transaction id")?),
            (b'E', _) => self.open = None,
            (b'A', _) => {
                let transaction = cursor.u32("transaction id")?;
                return Ok(Streamed::Aborted { transaction, writer: cursor.u32("subtransaction id")? });
            }
            // A message that belongs to no transaction has no id, and neither has an origin.
            (b'I' | b'U' | b'D' | b'T' | b'R' | b'Y' | b'M', Some(transaction)) => {
                let writer = cursor.u32("transaction id")?;
                return Ok(Streamed::Within { transaction, writer, message: decode_body(kind, cursor)? });
            }
            _ => {}
        }
        Ok(Streamed::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truncate_of(relation: u8) -> Vec<u8> {
        vec![b'T', 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0, relation]
    }

    #[test]
    fn what_a_block_holds_is_its_transactions_and_what_comes_whole_is_nobodys() {
        let mut blocks = Blocks::default();
        assert_eq!(blocks.read(b"S\0\0\0\x07\x01"), Ok(Streamed::Other));
        let bytes = truncate_of(9);
        let Ok(Streamed::Within { transaction: 7, writer: 8, message: Message::Truncate(emptied) }) =
            blocks.read(&bytes)
        else {
            panic!("no truncation")
        };
        assert_eq!(emptied.relations().collect::<Vec<_>>(), [9]);
        assert_eq!(blocks.read(b"E"), Ok(Streamed::Other));
        // The same message without a transaction id, as it is sent outside a block.
        assert_eq!(blocks.read(&[&b"T"[..], &bytes[5..]].concat()), Ok(Streamed::Other));
        assert_eq!(blocks.read(b"A\0\0\0\x07\0\0\0\x08"), Ok(Streamed::Aborted { transaction: 7, writer: 8 }));
    }

    #[test]
    fn what_ends_too_early_is_an_error() {
        let mut blocks = Blocks::default();
        blocks.read(b"S\0\0\0\x07\x01").unwrap();
        let whole = truncate_of(9);
        for length in 0..whole.len() {
            assert!(blocks.read(&whole[..length]).is_err(), "{length}");
        }
        assert!(blocks.read(b"A\0\0\0\x07").is_err() && Blocks::default().read(b"S").is_err());
    }
}
