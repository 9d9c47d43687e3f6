use proptest::prelude::*;
use secrecy::ExposeSecret;

use super::*;

fn parse(text: &str) -> Result<Dsn, DsnError> {
    Dsn::parse(text, &|name| (name == "USER").then(|| "osuser".to_owned()))
}

fn error(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

fn password(dsn: &Dsn) -> &str {
    dsn.password.as_ref().map(ExposeSecret::expose_secret).unwrap_or_default()
}

#[test]
fn a_uri_gives_its_parts_decoded() {
    let dsn =
        parse("postgresql://co%40herd:p%2Fa%3As%25s@h1:5433,[2001:db8::1]:5434,h3/my%20db?sslmode=require").unwrap();
    assert_eq!((dsn.user(), dsn.database(), password(&dsn)), ("co@herd", "my db", "p/a:s%s"));
    let hosts: Vec<String> = dsn.hosts.iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["h1:5433", "[2001:db8::1]:5434", "h3:5432"]);
    assert_eq!(dsn.hosts[1].place, Place::Address("2001:db8::1".parse().unwrap()));
    assert_eq!(dsn.tls.mode, SslMode::Require);
    assert_eq!(dsn.to_string(), "co@herd@h1:5433,[2001:db8::1]:5434,h3:5432/my db");
}

#[test]
fn a_unix_socket_is_named_by_its_directory_in_every_form() {
    for text in ["postgres://u@%2Ftmp%2Fpg:7/d", "postgresql://u@:7/d?host=/tmp/pg", "host=/tmp/pg port=7 user=u"] {
        let dsn = parse(text).unwrap();
        assert_eq!(dsn.hosts[0].place, Place::Directory("/tmp/pg".into()), "{text}");
        assert_eq!(dsn.hosts[0].to_string(), "/tmp/pg/.s.PGSQL.7");
    }
}

#[test]
fn words_may_be_quoted_and_spaced() {
    let dsn = parse(r"host = localhost user='a b' password = 'it\'s \\ this' dbname=x\ y application_name=''").unwrap();
    assert_eq!((dsn.user(), dsn.database(), password(&dsn)), ("a b", "x y", r"it's \ this"));
    assert_eq!(dsn.application_name, "coherd");
}

#[test]
fn what_is_left_out_comes_from_the_environment_and_then_from_libpqs_defaults() {
    let env = |name: &str| {
        let value = match name {
            "PGHOST" => "envhost",
            "PGPORT" => "6000",
            "PGUSER" => "envuser",
            "PGPASSWORD" => "envsecret",
            "PGSSLMODE" => "verify-ca",
            "PGTARGETSESSIONATTRS" => "read-write",
            "PGCONNECT_TIMEOUT" => "7",
            "HOME" => "/home/u",
            _ => return None,
        };
        Some(value.to_owned())
    };
    let dsn = Dsn::parse("port=5000", &env).unwrap();
    assert_eq!(dsn.to_string(), "envuser@envhost:5000/envuser");
    assert_eq!(password(&dsn), "envsecret");
    assert_eq!(dsn.tls.mode, SslMode::VerifyCa);
    assert_eq!(dsn.tls.root, RootChoice::File(FileChoice::IfThere("/home/u/.postgresql/root.crt".into())));
    assert_eq!(dsn.wanted, SessionAttrs::ReadWrite);
    assert_eq!(dsn.connect_timeout, Some(Duration::from_secs(7)));
    assert_eq!(dsn.passfile, Some("/home/u/.pgpass".into()));
    let bare = parse("").unwrap();
    assert_eq!((bare.user(), bare.database(), bare.tls.mode), ("osuser", "osuser", SslMode::Prefer));
    assert!(error("service=x").contains("service files are not read"));
    let service = |name: &str| (name == "PGSERVICE").then(|| "x".to_owned());
    assert!(Dsn::parse("user=u", &service).unwrap_err().to_string().ends_with("(from PGSERVICE)"));
}

#[test]
fn hostaddr_is_where_and_host_is_who() {
    let dsn = parse("host=db.internal hostaddr=10.0.0.1 user=u").unwrap();
    assert_eq!(dsn.hosts[0].name, "db.internal");
    assert_eq!(dsn.hosts[0].place, Place::Address("10.0.0.1".parse().unwrap()));
    assert!(error("host=a,b hostaddr=10.0.0.1").contains("host names 2 servers, hostaddr 1"));
    assert!(error("host=a,b port=1,2,3").contains("3 ports for 2 hosts"));
    assert_eq!(parse("host=a,b port=7").unwrap().to_string(), "osuser@a:7,b:7/osuser");
}

#[test]
fn timeouts_are_read_as_libpq_reads_them() {
    let dsn = parse("connect_timeout=1 keepalives_idle=5 keepalives_count=9 tcp_user_timeout=0").unwrap();
    assert_eq!(dsn.connect_timeout, Some(Duration::from_secs(2)));
    assert_eq!(dsn.keepalive.map(|k| (k.idle.as_secs(), k.interval.as_secs(), k.count)), Some((5, 10, 9)));
    assert_eq!(dsn.tcp_user_timeout, None);
    assert_eq!(parse("keepalives=0 connect_timeout=0").unwrap().keepalive, None);
    assert!(error("connect_timeout=soon").contains("\"soon\" is not a whole number"));
}

#[test]
fn a_wrong_name_or_value_is_answered_with_the_right_ones() {
    insta::assert_snapshot!(error("sslmod=require"), @"connection string: sslmod is no parameter; sslmode is");
    insta::assert_snapshot!(error("sslmode=on"), @r#"connection string: sslmode: "on" is not one of disable, allow, prefer, require, verify-ca, verify-full"#);
    insta::assert_snapshot!(error("sslmode=require sslrootcert=system"), @"connection string: sslmode: require is too weak with sslrootcert=system; use verify-full");
    insta::assert_snapshot!(error("gssencmode=require"), @"connection string: gssencmode: only disable, prefer is possible: GSSAPI and SSPI are not offered; use a password (SCRAM) or a client certificate");
    insta::assert_snapshot!(error("sslcrl=/x"), @"connection string: sslcrl: revocation lists are not offered; take the revoked certificate's authority out of sslrootcert");
    insta::assert_snapshot!(error("mysql://u@h/db"), @"connection string: the scheme of the URI is not known; it must be postgresql:// or postgres://");
    insta::assert_snapshot!(error("postgresql://u@[::1/db"), @"connection string: an IPv6 address lacks its closing bracket: write [2001:db8::1]:5432");
    insta::assert_snapshot!(error("postgresql://u@h/db?sslmode"), @"connection string: a parameter after the ? has no =: write name=value, and percent-encode & and ? in values");
    insta::assert_snapshot!(error("postgresql://u@h:99999/db"), @"connection string: port: not a number from 1 to 65535 (is there an unencoded slash in the password?)");
    insta::assert_snapshot!(error("host='x"), @"connection string: host: the closing quote is missing");
    parse("gssencmode=prefer client_encoding=UTF8 sslcompression=0 krbsrvname=x").unwrap();
    assert_eq!(parse("sslrootcert=system").unwrap().tls.mode, SslMode::VerifyFull);
}

#[test]
fn no_error_and_no_debug_shows_a_password_however_badly_it_is_quoted() {
    let texts = [
        "host=h password=hunter2 tail=hunter2",
        "host=h password=x hunter2 user=u",
        "password='hunter2",
        "postgresql://u:hunter2/x@h/db",
        "postgresql://u:x/hunter2@h/db",
        "postgresql://u:x?hunter2@h/db",
        "postgresql://u:x?hunter2=y@h/db",
        "postgresql://u:hunter2%zz@h/db",
        "postgresql://u:hunter2@h:port/db",
        "postgresql://u:hunter2@h/db?sslmode=nothing",
        "mysql://u:hunter2@h/db",
    ];
    for text in texts {
        let error = error(text);
        assert!(!error.contains("hunter2"), "{text}: {error}");
    }
    let dsn = parse("postgresql://u:hunter2@h/db").unwrap();
    assert!(!format!("{dsn} {dsn:?}").contains("hunter2"));
}

#[test]
fn every_parameter_is_known_once() {
    let mut names: Vec<&str> = parameter::PARAMETERS.iter().map(|parameter| parameter.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), parameter::PARAMETERS.len());
}

proptest! {
    #[test]
    fn any_text_is_answered_without_a_panic(text in ".{0,60}", uri in any::<bool>()) {
        let _ = parse(&if uri { format!("postgresql://{text}") } else { text });
    }

    #[test]
    fn any_value_survives_quoting(value in "[^\0]{1,30}") {
        let quoted = value.replace('\\', "\\\\").replace('\'', "\\'");
        let dsn = parse(&format!("user=u password='{quoted}' dbname='{quoted}'")).unwrap();
        prop_assert_eq!(password(&dsn), value.as_str());
        let encoded = percent_encoding::utf8_percent_encode(&value, percent_encoding::NON_ALPHANUMERIC);
        let dsn = parse(&format!("postgresql://u:{encoded}@h/{encoded}")).unwrap();
        prop_assert_eq!((password(&dsn), dsn.database()), (value.as_str(), value.as_str()));
    }
}
