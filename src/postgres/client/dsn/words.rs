//! The word form: `host=localhost port=5432 password='with a blank'`.

use super::parameter::{DsnError, Given};

/// Reads `name = value` words. A value with blanks must be in single quotes; `\'` and `\\` are literal.
pub(super) fn read(text: &str, given: &mut Given) -> Result<(), DsnError> {
    let mut rest = text.trim_start();
    let mut after_secret = false;
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let Some(after) = after.trim_start().strip_prefix('=') else {
            return Err(DsnError(lacks_equals(after_secret, text)));
        };
        let (value, after) = value(name, after.trim_start())?;
        given.put(name, value)?;
        after_secret = name.contains("password");
        rest = after.trim_start();
    }
    Ok(())
}

fn lacks_equals(after_secret: bool, text: &str) -> String {
    if after_secret {
        return "what follows the password is no name=value: a password with blanks must stand in single quotes"
            .to_owned();
    }
    if text.contains("://") {
        return "the scheme of the URI is not known; it must be postgresql:// or postgres://".to_owned();
    }
    "a word is no name=value: write host=… user=… dbname=…, or a URI postgresql://user@host/database".to_owned()
}

fn value<'a>(name: &str, text: &'a str) -> Result<(String, &'a str), DsnError> {
    let (quoted, body) = text.strip_prefix('\'').map_or((false, text), |body| (true, body));
    let mut value = String::new();
    let mut chars = body.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Ok((value, body.get(at + 1..).unwrap_or_default())),
            c if c.is_whitespace() && !quoted => return Ok((value, body.get(at..).unwrap_or_default())),
            c => value.push(c),
        }
    }
    if quoted {
        return Err(DsnError(format!("{name}: the closing quote is missing")));
    }
    Ok((value, ""))
}
