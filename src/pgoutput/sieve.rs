//! A message that is too large to hold, read as it passes. What comes out is a message of the same kind that
//! [`super::decode`] reads: values that are too large are marked as such ([`Cell::Cut`]), and the content of a logical
//! message ends a byte after the most that anybody reads, so that it still shows as too large.
//!
//! [`Cell::Cut`]: crate::types::change::Cell::Cut

use crate::types::change::CUT;

/// The most that is kept of a value.
const VALUE_BYTES_MAX: usize = 1 << 20;

/// The most that is kept of a message, or a little more: beyond it, values are cut however small they are.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// The most that is kept of a logical message's prefix, more than any that means something.
const PREFIX_BYTES_MAX: usize = 64;

/// A message that cannot be read in passing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is of kind {0:?}, which is never so large")]
pub struct Unfit(char);

/// What comes next in the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// What stands before the message, which is kept as it is.
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

/// Reads one message piece by piece.
#[derive(Debug)]
pub struct Sieve {
    next: Next,
    /// Bytes of the field that is being read.
    field: Vec<u8>,
    head: usize,
    /// Cells of the row that are still to come.
    cells: u16,
    content_max: usize,
    kept: Vec<u8>,
}

impl Sieve {
    /// For a message behind `head` bytes that are kept as they are. Of the content of a logical message `content_max` + 1
    /// bytes are kept.
    pub fn new(head: usize, content_max: usize) -> Sieve {
        Sieve { next: Next::Head, field: Vec::new(), head, cells: 0, content_max, kept: Vec::new() }
    }

    /// What is left of the message once all of it was read.
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
                    // More than the length says is left to the decoder, which refuses it.
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

    /// Gathers a field of a fixed size, and acts on it when it is whole.
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
        // From here on a cell takes a byte, and no two rows have as many.
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
