//! `bool`: the words that an application writes for a boolean, where Postgres prints `t` and `f`.

use std::sync::Arc;

use super::{Apply, Filter, Kind};

pub(super) const BOOL: Filter = Filter {
    name: "bool",
    argument: "YES,NO",
    about: "YES for true and NO for false, of a boolean, which otherwise is t or f",
    kind: Kind::Argued(prepare),
};

fn prepare(argument: Option<&str>) -> Result<Arc<Apply>, String> {
    let words = argument.and_then(|words| words.split_once(',')).filter(|(_, no)| !no.contains(','));
    let (yes, no) = words.ok_or("bool needs two words with a comma between them: bool:true,false")?;
    let (yes, no) = (yes.to_owned(), no.to_owned());
    Ok(Arc::new(move |input, out| {
        let word = match input {
            b"t" | b"true" => &yes,
            b"f" | b"false" => &no,
            _ => return false,
        };
        out.extend_from_slice(word.as_bytes());
        true
    }))
}

#[cfg(test)]
mod tests {
    use crate::rules::filter::tests::{error, text};

    #[test]
    fn words_for_true_and_false() {
        assert_eq!(text("bool:1,0", "f").as_deref(), Some("0"));
        assert_eq!(text("bool:,no", "t").as_deref(), Some(""));
        // As in JSON.
        assert_eq!(text("bool:yes,no", "true").as_deref(), Some("yes"));
        assert_eq!(text("bool:yes,no", "1"), None, "not a boolean");
        for wrong in [None, Some("yes"), Some("a,b,c")] {
            assert_eq!(error("bool", wrong), "bool needs two words with a comma between them: bool:true,false");
        }
    }
}
