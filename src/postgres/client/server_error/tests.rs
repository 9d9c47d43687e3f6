use super::*;

const CONNECTING: Doing<'static> =
    Doing::Connecting { user: "u", database: "d", our_address: None, encrypted: false, replication: true };
const CREATING: Doing<'static> = Doing::Creating { slot: "s", user: "u" };
const STARTING: Doing<'static> = Doing::Starting { slot: "s", user: "u" };
const STREAMING: Doing<'static> = Doing::Streaming { slot: "s", publication: "p" };

fn refusal(code: &str, message: &str) -> ServerError {
    ServerError {
        code: code.to_owned(),
        message: message.to_owned(),
        detail: Some("detail".to_owned()),
        ..ServerError::default()
    }
}

fn kind_of(code: &str, doing: Doing<'_>) -> &'static str {
    match refusal(code, "words").explain(doing).kind() {
        ErrorKind::Lost => "lost",
        ErrorKind::Busy => "busy",
        ErrorKind::Gap => "gap",
        ErrorKind::Refused | ErrorKind::Pooler => "refused",
        ErrorKind::Synchronous => "synchronous",
        ErrorKind::Protocol => "protocol",
        ErrorKind::NotDecodable { .. } => "not decodable",
    }
}

#[test]
fn each_sqlstate_means_what_the_design_says_it_means() {
    for (code, connecting, creating, starting, streaming) in [
        ("28P01", "refused", "refused", "refused", "refused"),
        ("28000", "refused", "refused", "refused", "refused"),
        ("42501", "refused", "refused", "refused", "not decodable"),
        ("3D000", "refused", "refused", "refused", "refused"),
        ("53300", "lost", "lost", "lost", "lost"),
        ("53400", "refused", "refused", "refused", "refused"),
        ("55000", "refused", "refused", "gap", "gap"),
        ("42704", "refused", "refused", "gap", "gap"),
        ("58P01", "lost", "lost", "gap", "gap"),
        ("55006", "busy", "busy", "busy", "busy"),
        ("57P01", "lost", "lost", "lost", "lost"),
        ("57P03", "lost", "lost", "lost", "lost"),
        ("08006", "lost", "lost", "lost", "lost"),
        ("53100", "lost", "lost", "lost", "lost"),
        ("XX000", "lost", "lost", "lost", "not decodable"),
        ("0A000", "refused", "refused", "refused", "not decodable"),
        ("42602", "refused", "refused", "refused", "not decodable"),
        ("42601", "protocol", "protocol", "protocol", "protocol"),
        ("22012", "refused", "refused", "refused", "not decodable"),
        ("22P05", "refused", "refused", "refused", "not decodable"),
        ("54000", "refused", "refused", "refused", "not decodable"),
        ("", "refused", "refused", "refused", "not decodable"),
    ] {
        let got = [CONNECTING, CREATING, STARTING, STREAMING].map(|doing| kind_of(code, doing));
        assert_eq!(got, [connecting, creating, starting, streaming], "{code}");
    }
}

#[test]
fn a_wal_level_that_is_too_low_is_no_gap() {
    for words in ["logical decoding requires wal_level >= logical", "requires \"wal_level\" >= \"logical\""] {
        let error = refusal("55000", words).explain(STARTING);
        assert!(error.kind() == ErrorKind::Refused && error.to_string().contains("ALTER SYSTEM SET wal_level"));
    }
}

#[test]
fn a_standby_that_is_waited_for_is_no_gap() {
    let words = "replication slot \"s\" specified in parameter \"synchronized_standby_slots\" does not exist";
    for code in ["55000", "22023"] {
        assert_eq!(refusal(code, words).explain(STREAMING).kind(), ErrorKind::Lost, "{code}");
    }
}

#[test]
fn a_detail_that_may_hold_a_cell_value_is_not_shown() {
    let shown = |code| refusal(code, "words").explain(STREAMING).to_string().contains("detail");
    assert!(shown("55000") && shown("42704"));
    assert!(!shown("22P02") && !shown("23505") && !shown("XX000"));
}

#[test]
fn what_cannot_be_decoded_is_named_by_position_and_table_and_never_by_its_values() {
    let context = "Slot »s«, Ausgabe-Plugin »pgoutput«, im Callback change, zugehörige LSN 1/AB00CD";
    let error = |code: &str| ServerError {
        context: Some(context.to_owned()),
        schema: Some("public".to_owned()),
        table: Some("Users".to_owned()),
        ..refusal(code, "invalid input syntax for type integer: \"secret\"")
    };
    let refused = error("22P02").explain(STREAMING);
    assert_eq!(refused.kind(), ErrorKind::NotDecodable { at: Some("1/AB00CD".parse().unwrap()) });
    let text = refused.to_string();
    assert!(text.contains("public.\"Users\" [SQLSTATE 22P02]") && text.contains("pubname = 'p'"), "{text}");
    assert!(!text.contains("secret") && !text.contains("detail"), "{text}");
    assert!(error("XX000").explain(STREAMING).to_string().contains("invalid input"), "a fault of the server's own");
    assert!(!error("P0001").explain(STREAMING).to_string().contains("secret"));
    let nowhere = refusal("22012", "words").explain(STREAMING);
    assert_eq!(nowhere.kind(), ErrorKind::NotDecodable { at: None });
}

#[test]
fn the_line_for_pg_hba_fits_the_connection() {
    let line = |our_address: Option<&str>, encrypted, user| {
        let our_address = our_address.map(|address| address.parse().unwrap());
        let doing = Doing::Connecting { user, database: "all", our_address, encrypted, replication: true };
        let text = refusal("28000", "no pg_hba.conf entry").explain(doing).to_string();
        text.rsplit_once(": ").unwrap().1.to_owned()
    };
    assert_eq!(line(None, false, "u"), "local \"all\" u scram-sha-256");
    assert_eq!(line(Some("10.0.0.7"), false, "a b"), "host \"all\" \"a b\" 10.0.0.7/32 scram-sha-256");
    assert_eq!(line(Some("::1"), true, "u"), "hostssl \"all\" u ::1/128 scram-sha-256");
}

#[test]
fn a_body_is_read_as_far_as_it_goes() {
    let error = ServerError::read(b"SERROR\0C42704\0Mwords\0Hhelp\0\0Dnot any more\0");
    assert_eq!(error, ServerError { hint: Some("help".to_owned()), detail: None, ..refusal("42704", "words") });
    assert_eq!(ServerError::read(b"C42").code, "42");
    assert_eq!(ServerError::read(b"").code, "");
}

#[test]
fn a_missing_privilege_is_answered_with_the_grant_where_the_message_names_the_object() {
    let asking = Doing::Asking { what: "look at the table", user: "coherd" };
    for (message, grant) in [
        ("permission denied for table Users", "Run: GRANT SELECT ON \"Users\" TO coherd;"),
        ("permission denied for schema app", "Run: GRANT USAGE ON SCHEMA app TO coherd;"),
        ("permission denied for function f", "Run: GRANT EXECUTE ON FUNCTION f TO coherd;"),
        ("permission denied for table t; DROP TABLE t", "Run: GRANT SELECT ON \"t; DROP TABLE t\" TO coherd;"),
        ("permission denied for language c", "Grant coherd what the message names."),
        ("keine Berechtigung für Tabelle t", "Grant coherd what the message names."),
    ] {
        let error = refusal("42501", message).explain(asking);
        assert!(error.kind() == ErrorKind::Refused && error.to_string().contains(grant), "{message}: {error}");
    }
}
