//! Checked reads: malformed bytes give an error and never a panic.

use super::DecodeError;

pub(super) struct Cursor<'a> {
    message: char,
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn new(message: u8, rest: &'a [u8]) -> Self {
        Cursor { message: char::from(message), rest }
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn take<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let (bytes, rest) = self.rest.split_first_chunk::<N>().ok_or(self.short(field))?;
        self.rest = rest;
        Ok(*bytes)
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.take(field).map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        self.take(field).map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.take(field).map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        self.take(field).map(u64::from_be_bytes)
    }

    pub(super) fn i64(&mut self, field: &'static str) -> Result<i64, DecodeError> {
        self.take(field).map(i64::from_be_bytes)
    }

    pub(super) fn peek(&self, field: &'static str) -> Result<u8, DecodeError> {
        self.rest.first().copied().ok_or(self.short(field))
    }

    pub(super) fn skip(&mut self, length: u32, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let (bytes, rest) = self.rest.split_at_checked(length as usize).ok_or(self.short(field))?;
        self.rest = rest;
        Ok(bytes)
    }

    /// A string that ends with a zero byte.
    pub(super) fn text(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        let bytes = self.bytes(field)?;
        str::from_utf8(bytes).map_err(|_| DecodeError::NotUtf8 { message: self.message, field })
    }

    /// Bytes up to a zero byte, which is skipped.
    pub(super) fn bytes(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let end = self.rest.iter().position(|&byte| byte == 0).ok_or(self.short(field))?;
        let (bytes, rest) = self.rest.split_at_checked(end).ok_or(self.short(field))?;
        self.rest = rest.get(1..).unwrap_or_default();
        Ok(bytes)
    }

    pub(super) fn end(&self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            extra => Err(DecodeError::Long { message: self.message, extra }),
        }
    }

    pub(super) fn short(&self, field: &'static str) -> DecodeError {
        DecodeError::Short { message: self.message, field }
    }

    pub(super) fn unknown(&self, field: &'static str, got: u8) -> DecodeError {
        let got = format!("'{}'", got.escape_ascii());
        DecodeError::Unknown { message: self.message, field, got }
    }

    pub(super) fn unknown_next(&self, field: &'static str) -> DecodeError {
        match self.rest.first() {
            Some(&got) => self.unknown(field, got),
            None => self.short(field),
        }
    }
}
