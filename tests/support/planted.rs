//! What no output may hold: secrets and cell values.
//!
//! Every daemon that a test starts is given [`PASSWORD`], and whatever it logs, answers or prints is searched for it; so is
//! what every command prints. [`VALUE`] is for tests that write it into rows: no log and no page may hold it. (Commands
//! such as `coherd keys` print keys, which are made of values.)

/// In the DSN of every daemon. The server asks nobody for one.
pub const PASSWORD: &str = "planted-pa55word";

/// The daemon's role with its password, as it stands in a DSN.
pub fn role() -> String {
    format!("coherd:{PASSWORD}")
}

/// In rows.
pub const VALUE: &str = "planted-value";

/// Fails where `text`, which is `what`, holds a password.
pub fn assert_no_secret(what: &str, text: &str) {
    assert!(!text.contains(PASSWORD), "{what} holds a password:\n{text}");
}

/// Fails where `text`, which is `what`, holds a password or a cell value.
pub fn assert_nothing(what: &str, text: &str) {
    assert_no_secret(what, text);
    assert!(!text.contains(VALUE), "{what} holds a cell value:\n{text}");
}
