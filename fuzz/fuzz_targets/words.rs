//! Arbitrary text where people and applications write it: key templates, connection strings, messages for manual
//! invalidations, positions. Errors are fine, panics are not, and no error may contain a password.
#![no_main]

use coherd::transaction::manual::{self, Manual};
use coherd::types::change::{Row, encode_row};
use coherd::types::lsn::Lsn;
use coherd::rules::name::{parse_column, parse_table};
use coherd::rules::template::Template;
use coherd::postgres::client::dsn::Dsn;
use coherd::types::table::TableName;
use libfuzzer_sys::fuzz_target;

// The first byte selects the parser for the rest.
fuzz_target!(|data: &[u8]| {
    let Some((door, rest)) = data.split_first() else { return };
    match (door, str::from_utf8(rest)) {
        (b'M', _) => message(rest),
        (b'T', Ok(text)) => template(text),
        (b'D', Ok(text)) => dsn(text),
        (b'N', Ok(text)) => names(text),
        _ => {}
    }
});

fn template(text: &str) {
    let table = TableName { schema: "public".into(), name: "users".into() };
    let Ok(template) = Template::parse(text, &table) else { return };
    assert_eq!(template.text(), text);
    assert!(!template.pieces().is_empty() && !template.scope_pattern().is_empty());
    assert!(template.has_literal() || template.columns().next().is_some());
    let _ = template.could_make(text.as_bytes());
}

fn dsn(text: &str) {
    match Dsn::parse(text, &|name| (name == "HOME").then(|| "/nowhere".to_owned())) {
        Ok(dsn) => assert!(!dsn.to_string().is_empty() && !dsn.user().is_empty()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    secret(text);
}

/// The displayed text must not contain a password in either form, whatever follows it.
fn secret(after: &str) {
    const PASSWORD: &str = "Pa55-w0rd-of-the-test";
    for text in [format!("postgresql://u:{PASSWORD}@h/d{after}"), format!("host=h user=u password={PASSWORD} {after}")]
    {
        let shown = match Dsn::parse(&text, &|_| None) {
            Ok(dsn) => format!("{dsn} {dsn:?}"),
            Err(error) => format!("{error} {error:?}"),
        };
        assert!(!shown.contains(PASSWORD) || after.contains(PASSWORD), "{shown}");
    }
}

fn message(content: &[u8]) {
    let Ok(Manual::Touch(touched)) = manual::read(content) else { return };
    let mut cells = Vec::new();
    for row in &touched.rows {
        assert_eq!(row.len(), touched.relation.columns.len());
        if let Some(count) = encode_row(row.iter().map(Option::as_ref), &mut cells) {
            assert_eq!(Row::new(count, &cells).cells().count(), row.len());
        }
    }
}

fn names(text: &str) {
    if let Ok(table) = parse_table(text) {
        assert_eq!(parse_table(&table.sql()), Ok(table), "what is printed is read as the same name");
    }
    let _ = parse_column(text);
    if let Ok(lsn) = text.parse::<Lsn>() {
        assert_eq!(lsn.to_string().parse(), Ok(lsn));
    }
}
