//! `pad`: zeros on the left, as `%08d` and `zfill` write them.

use std::sync::Arc;

use super::{Apply, Filter, Kind};

/// A wider field would be a mistake.
const WIDTH_MAX: usize = 100;

pub(super) const PAD: Filter = Filter {
    name: "pad",
    argument: "WIDTH",
    about: "zeros on the left up to WIDTH characters, behind a minus sign; longer values stay",
    kind: Kind::Argued(prepare),
};

fn prepare(argument: Option<&str>) -> Result<Arc<Apply>, String> {
    let width = argument.and_then(|width| width.parse().ok()).filter(|width| (1..=WIDTH_MAX).contains(width));
    let width: usize = width.ok_or_else(|| format!("pad needs a width of 1 to {WIDTH_MAX}: pad:8"))?;
    Ok(Arc::new(move |input, out| {
        let (sign, digits) = match input.strip_prefix(b"-") {
            Some(digits) => (&b"-"[..], digits),
            None => (&b""[..], input),
        };
        // Characters, not bytes: the first bytes of their UTF-8.
        let long = input.iter().filter(|byte| **byte & 0xC0 != 0x80).count();
        out.extend_from_slice(sign);
        out.extend(std::iter::repeat_n(b'0', width.saturating_sub(long)));
        out.extend_from_slice(digits);
        true
    }))
}

#[cfg(test)]
mod tests {
    use crate::rules::filter::tests::{error, text};

    /// `python3 -c 'print("-7".zfill(4))'` and so on.
    #[test]
    fn zeros_come_behind_the_sign() {
        for (width, input, expected) in [
            ("4", "7", "0007"),
            ("4", "-7", "-007"),
            ("2", "123", "123"),
            ("3", "ä", "00ä"),
            ("3", "", "000"),
            ("1", "-", "-"),
        ] {
            assert_eq!(text(&format!("pad:{width}"), input).as_deref(), Some(expected), "{input}");
        }
        for wrong in [None, Some(""), Some("0"), Some("101"), Some("x"), Some("-1")] {
            assert_eq!(error("pad", wrong), "pad needs a width of 1 to 100: pad:8");
        }
    }
}
