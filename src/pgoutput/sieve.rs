//! Reads a message that is too large to hold, piece by piece, and shortens it. The output is a message of the same
//! kind, which [`super::decode`] reads. Values that are too large are marked as such ([`Cell::Cut`]). The content of a
//! logical message is cut one byte after the most that any reader accepts, so that it still counts as too large.
//!
//! [`Cell::Cut`]: crate::types::change::Cell::Cut

use crate::types::change::CUT;

/// The longest value that is kept.
const VALUE_BYTES_MAX: usize = 1 << 20;

/// The most bytes of a message that are kept, give or take a little. After that, every value is cut, however small.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// The most bytes of a logical message's prefix that are kept. Every prefix with a meaning is shorter.
const PREFIX_BYTES_MAX: usize = 64;

/// A message of a kind that the sieve cannot shorten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is of kind {0:?}, which is never so large")]
pub struct Unfit(char);

/// The part of the message that comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The bytes before the message, which are kept unchanged.
    Head,
    Kind,
    /// `pg_class.oid`.
    Relation,
    /// `K`, `O` or `N`.
    Image,
    Columns,
    Cell,
    Length,
    Value {
        left: usize,
        keep: bool,
    },
    /// Flags and LSN of a logical message.
    Flags,
    Prefix {
        kept: usize,
    },
    ContentLength,
    Content {
        left: usize,
        room: usize,
    },
}

/// Shortens one message, piece by piece.
#[derive(Debug)]
pub struct Sieve {
    next: Next,
    /// Bytes of the current field.
    field: Vec<u8>,
    head: usize,
    /// Cells of the row that have not come yet.
    cells: u16,
    content_max: usize,
    kept: Vec<u8>,
}

impl Sieve {
    /// A sieve for a message after `head` bytes, which are kept unchanged. Of a logical message's content,
    /// `content_max` + 1 bytes are kept.
    pub fn new(head: usize, content_max: usize) -> Sieve {
        Sieve { next: Next::Head, field: Vec::new(), head, cells: 0, content_max, kept: Vec::new() }
    }

    /// The shortened message, once all of it has been read.
    pub fn finish(self) -> Vec<u8> {
        self.kept
    }

    /// Reads the next piece.
    pub fn read(&mut self, mut bytes: &[u8]) -> Result<(), Unfit> {
        while !bytes.is_empty() {
            bytes = match self.next {
                Next::Value { left, keep } => {
                    let (value, rest) = bytes.split_at(left.min(bytes.len()));
                    if keep {
                        self.kept.extend_from_slice(value);
                    }
                    match left - value.len() {
                        0 => self.cell_ended(),
                        left => self.next = Next::Value { left, keep },
                    }
                    rest
                }
                Next::Content { left, room } => {
                    let (content, rest) = bytes.split_at(left.min(bytes.len()));
                    let keep = content.get(..room.min(content.len())).unwrap_or_default();
                    self.kept.extend_from_slice(keep);
                    // Bytes beyond the declared length are left to the decoder, which rejects them.
                    self.next = Next::Content { left: left - content.len(), room: room - keep.len() };
                    if content.is_empty() { &[] } else { rest }
                }
                Next::Prefix { kept } => self.prefix(bytes, kept),
                next => self.part_of_field(next, bytes)?,
            };
        }
        Ok(())
    }

    fn prefix<'a>(&mut self, bytes: &'a [u8], kept: usize) -> &'a [u8] {
        let end = bytes.iter().position(|byte| *byte == 0);
        let (part, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
        let keep = part.get(..part.len().min(PREFIX_BYTES_MAX - kept)).unwrap_or_default();
        self.kept.extend_from_slice(keep);
        self.next = Next::Prefix { kept: kept + keep.len() };
        if end.is_some() {
            self.kept.push(0);
            self.next = Next::ContentLength;
        }
        rest.get(1..).filter(|_| end.is_some()).unwrap_or_default()
    }

    /// Gathers a field of fixed size, and handles it once it is complete.
    fn part_of_field<'a>(&mut self, next: Next, bytes: &'a [u8]) -> Result<&'a [u8], Unfit> {
        let size = match next {
            Next::Head => self.head,
            Next::Kind | Next::Image | Next::Cell => 1,
            Next::Columns => 2,
            Next::Relation | Next::Length | Next::ContentLength => 4,
            Next::Flags => 9,
            Next::Value { .. } | Next::Prefix { .. } | Next::Content { .. } => 0,
        };
        let (part, rest) = bytes.split_at(bytes.len().min(size - self.field.len()));
        self.field.extend_from_slice(part);
        if self.field.len() == size {
            let field = std::mem::take(&mut self.field);
            self.field_ended(next, &field)?;
        }
        Ok(rest)
    }

    fn field_ended(&mut self, next: Next, field: &[u8]) -> Result<(), Unfit> {
        let number = field.iter().take(4).fold(0, |number, byte| number << 8 | usize::from(*byte));
        if next == Next::Length {
            let keep = number <= VALUE_BYTES_MAX && self.kept.len() + number <= MESSAGE_BYTES_MAX;
            if keep {
                self.kept.push(b't');
                self.kept.extend_from_slice(field);
            } else {
                self.kept.push(CUT);
            }
            self.next = Next::Value { left: number, keep };
            if number == 0 {
                self.cell_ended();
            }
            return Ok(());
        }
        if next == Next::ContentLength {
            let room = number.min(self.content_max.saturating_add(1));
            self.kept.extend(u32::try_from(room).unwrap_or(u32::MAX).to_be_bytes());
            self.next = Next::Content { left: number, room };
            return Ok(());
        }
        let kind = field.first().copied().unwrap_or_default();
        if !(next == Next::Cell && kind == b't') {
            self.kept.extend_from_slice(field);
        }
        // Beyond the limit each cell takes one byte, and two rows cannot have this many cells.
        if self.kept.len() > MESSAGE_BYTES_MAX + (1 << 18) {
            return Err(Unfit('?'));
        }
        match next {
            Next::Head => self.next = Next::Kind,
            Next::Kind if matches!(kind, b'I' | b'U' | b'D') => self.next = Next::Relation,
            Next::Kind if kind == b'M' => self.next = Next::Flags,
            Next::Kind => return Err(Unfit(char::from(kind))),
            Next::Relation => self.next = Next::Image,
            Next::Image => self.next = Next::Columns,
            Next::Columns => {
                self.cells = u16::try_from(number).unwrap_or_default().saturating_add(1);
                self.cell_ended();
            }
            Next::Cell if kind == b't' => self.next = Next::Length,
            Next::Flags => self.next = Next::Prefix { kept: 0 },
            _ => self.cell_ended(),
        }
        Ok(())
    }

    fn cell_ended(&mut self) {
        self.cells = self.cells.saturating_sub(1);
        self.next = if self.cells == 0 { Next::Image } else { Next::Cell };
    }
}
