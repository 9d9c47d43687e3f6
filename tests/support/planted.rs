//! Values that no output may contain: secrets and cell values.
//!
//! Every daemon that a test starts has [`PASSWORD`] in its DSN. The tests search for it in everything that the daemon
//! logs, answers or prints, and in the output of every command. [`VALUE`] is for tests that write it into rows: no log
//! and no page may contain it. (Commands such as `coherd keys` print keys, which contain values.)

/// In the DSN of every daemon. The server asks for no password.
pub const PASSWORD: &str = "planted-pa55word";

/// The daemon's role with its password, as in a DSN.
pub fn role() -> String {
    format!("coherd:{PASSWORD}")
}

/// A cell value to put in rows.
pub const VALUE: &str = "planted-value";

/// Panics if `text` contains a password. `what` names the text.
pub fn assert_no_secret(what: &str, text: &str) {
    assert!(!text.contains(PASSWORD), "{what} holds a password:\n{text}");
}

/// Panics if `text` contains a password or a cell value. `what` names the text.
pub fn assert_nothing(what: &str, text: &str) {
    assert_no_secret(what, text);
    assert!(!text.contains(VALUE), "{what} holds a cell value:\n{text}");
}
