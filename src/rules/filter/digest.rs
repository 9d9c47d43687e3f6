//! `md5`, `sha1` and `sha256`, printed in lower-case hexadecimal as by Postgres's own functions.

use sha2::Digest;

use super::Filter;
use super::escape::push_hex;

pub(super) const MD5: Filter =
    Filter::plain("md5", "MD5, 32 hexadecimal digits", |input, out| push_hex(&md5::Md5::digest(input), out));

pub(super) const SHA1: Filter =
    Filter::plain("sha1", "SHA-1, 40 hexadecimal digits", |input, out| push_hex(&sha1::Sha1::digest(input), out));

pub(super) const SHA256: Filter =
    Filter::plain("sha256", "SHA-256, 64 hexadecimal digits", |input, out| push_hex(&sha2::Sha256::digest(input), out));
