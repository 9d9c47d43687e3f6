//! Reads the elements of an array as Postgres prints it (Postgres manual, "Array Input and Output Syntax").

/// Text that is no array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreadable;

/// Calls `element` with each element, `None` for NULL; those of inner arrays in order, as `unnest` gives them. `buffer`
/// holds elements that have escapes.
pub fn elements(text: &[u8], buffer: &mut Vec<u8>, element: &mut dyn FnMut(Option<&[u8]>)) -> Result<(), Unreadable> {
    let mut rest = without_bounds(text)?;
    let mut depth = 0_usize;
    loop {
        let (sign, after) = rest.split_first().ok_or(Unreadable)?;
        match sign {
            b'{' => {
                depth += 1;
                rest = after;
            }
            b'}' => {
                depth = depth.checked_sub(1).ok_or(Unreadable)?;
                rest = after;
                if depth == 0 {
                    return if rest.is_empty() { Ok(()) } else { Err(Unreadable) };
                }
            }
            _ if depth == 0 => return Err(Unreadable),
            b',' => rest = after,
            b'"' => {
                rest = quoted(after, buffer)?;
                element(Some(buffer));
            }
            _ => {
                let end = rest.iter().position(|byte| matches!(byte, b',' | b'}')).ok_or(Unreadable)?;
                let (value, after) = rest.split_at_checked(end).ok_or(Unreadable)?;
                element((value != b"NULL").then_some(value));
                rest = after;
            }
        }
    }
}

/// `[0:2]={…}`: an array whose first index is not 1.
fn without_bounds(text: &[u8]) -> Result<&[u8], Unreadable> {
    if !text.starts_with(b"[") {
        return Ok(text);
    }
    let at = text.iter().position(|byte| *byte == b'=').ok_or(Unreadable)?;
    text.get(at + 1..).ok_or(Unreadable)
}

/// Reads a quoted element into `buffer`. Returns what follows the closing quote.
fn quoted<'a>(mut rest: &'a [u8], buffer: &mut Vec<u8>) -> Result<&'a [u8], Unreadable> {
    buffer.clear();
    loop {
        let end = rest.iter().position(|byte| matches!(byte, b'"' | b'\\')).ok_or(Unreadable)?;
        let (plain, found) = rest.split_at_checked(end).ok_or(Unreadable)?;
        buffer.extend_from_slice(plain);
        match found {
            [b'\\', escaped, after @ ..] => {
                buffer.push(*escaped);
                rest = after;
            }
            [b'"', after @ ..] => return Ok(after),
            _ => return Err(Unreadable),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Result<Vec<Option<String>>, Unreadable> {
        let mut all = Vec::new();
        let text_of = |element: &[u8]| String::from_utf8(element.to_vec()).unwrap();
        elements(text.as_bytes(), &mut Vec::new(), &mut |element| all.push(element.map(text_of)))?;
        Ok(all)
    }

    /// `SELECT unnest(…)` gives the same.
    #[test]
    fn elements_are_those_that_unnest_gives() {
        for (text, expected) in [
            ("{}", &[][..]),
            ("{1,2}", &["1", "2"]),
            ("{a,\"b c\",\"\",\"d\\\"e\\\\\",\"NULL\",NULL}", &["a", "b c", "", "d\"e\\", "NULL", "-"]),
            ("{{1,2},{3,4}}", &["1", "2", "3", "4"]),
            ("[0:1]={x,y}", &["x", "y"]),
            ("[1:1][-2:-1]={{5,6}}", &["5", "6"]),
            ("{\"{a,b}\"}", &["{a,b}"]),
            ("{ä,\",\"}", &["ä", ","]),
        ] {
            let expected: Vec<_> = expected.iter().map(|it| (*it != "-").then(|| (*it).to_owned())).collect();
            assert_eq!(all(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_array_is_unreadable() {
        for text in ["", "a", "{", "{a", "{\"a}", "{a}b", "{}}", "[0:1]", "{\"a\\", "1,2"] {
            assert_eq!(all(text), Err(Unreadable), "{text}");
        }
    }
}
