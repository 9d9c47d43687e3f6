//! Every `sslmode` against a server with certificates.

use std::path::PathBuf;
use std::sync::Arc;

use coherd::postgres::client::sql;
use coherd::postgres::{Source, SourceError};

use super::certificates::{Authority, Leaf, private_file};
use super::{Followed, dsn, look, own_server, runtime, settled_text};
use crate::support::{Database, Postgres, postgres::postgres_client};

const HBA: &str = "
host      all postgres 127.0.0.1/32 trust
hostssl   all scram    127.0.0.1/32 scram-sha-256
hostssl   all holder   127.0.0.1/32 cert
hostnossl all open     127.0.0.1/32 trust
hostssl   all sealed   127.0.0.1/32 trust
";

struct Fixture {
    server: Arc<Postgres>,
    dir: tempfile::TempDir,
    authority: Authority,
    root: PathBuf,
    other_root: PathBuf,
}

impl Fixture {
    fn start() -> Fixture {
        let authority = Authority::new("test authority");
        let leaf = authority.server(&["localhost", "127.0.0.1"]);
        Fixture::with(authority, &leaf)
    }

    fn with(authority: Authority, leaf: &Leaf) -> Fixture {
        let server = own_server("");
        let mut client = postgres_client(&server.dsn("postgres")).unwrap();
        client.run("CREATE ROLE scram LOGIN REPLICATION PASSWORD 'secret'");
        for role in ["holder", "open", "sealed"] {
            client.run(&format!("CREATE ROLE {role} LOGIN REPLICATION"));
        }
        server.write_file("pg_hba.conf", HBA);
        server.write_file("server.crt", &leaf.certificate);
        server.write_file("server.key", &leaf.key);
        server.write_file("root.crt", &authority.pem);
        server.append_settings("ssl = on\nssl_ca_file = 'root.crt'");
        server.reload();
        let dir = tempfile::tempdir().unwrap();
        let root = private_file(dir.path(), "root.crt", &authority.pem);
        let other_root = private_file(dir.path(), "other.crt", &Authority::new("another authority").pem);
        Fixture { server, dir, authority, root, other_root }
    }

    fn dsn(&self, host: &str, user: &str, more: &str) -> String {
        format!("host={host} hostaddr=127.0.0.1 port={} user={user} dbname=postgres {more}", self.server.port())
    }

    /// The error of a replication connection. An SQL session must fail with the same error.
    fn refusal(&self, host: &str, user: &str, more: &str) -> String {
        let text = self.dsn(host, user, more);
        let port = self.server.port().to_string();
        let dir = self.dir.path().display().to_string();
        let settled = |error: &SourceError| settled_text(error, &[(&port, "PORT"), (&dir, "DIR")]);
        let error = settled(&look(&text).unwrap_err());
        let other = settled(&runtime().block_on(sql::connect(&dsn(&text))).err().unwrap());
        assert_eq!(error, other);
        error
    }

    /// Whether the user's session is encrypted. Panics if the login fails.
    fn is_encrypted(&self, host: &str, user: &str, more: &str) -> bool {
        let text = self.dsn(host, user, more);
        look(&text).unwrap();
        runtime().block_on(async {
            let client = sql::connect(&dsn(&text)).await.unwrap();
            let row = client.query_one("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[]).await.unwrap();
            row.get(0)
        })
    }
}

#[test]
fn each_sslmode_encrypts_and_verifies_as_libpq_says() {
    let fixture = Fixture::start();
    let root = format!("sslrootcert={}", fixture.root.display());
    let encrypted = |host: &str, more: &str| fixture.is_encrypted(host, "postgres", more);
    assert!(!encrypted("localhost", "sslmode=disable"));
    assert!(!encrypted("localhost", "sslmode=allow"));
    assert!(encrypted("localhost", "sslmode=prefer"));
    assert!(encrypted("localhost", "sslmode=require"));
    assert!(encrypted("elsewhere.example", &format!("sslmode=require {root}")));
    assert!(encrypted("elsewhere.example", &format!("sslmode=verify-ca {root}")));
    assert!(encrypted("localhost", &format!("sslmode=verify-full {root}")));
    assert!(encrypted("127.0.0.1", &format!("sslmode=verify-full {root}")));
    assert!(encrypted("localhost", "sslmode=require ssl_min_protocol_version=TLSv1.3 sslsni=0"));
}

#[test]
fn a_certificate_that_does_not_convince_is_refused_with_the_reason() {
    let fixture = Fixture::start();
    let root = format!("sslrootcert={}", fixture.root.display());
    let other = format!("sslrootcert={}", fixture.other_root.display());
    let refusal = |host: &str, more: &str| fixture.refusal(host, "postgres", more);
    insta::assert_snapshot!(refusal("localhost", &format!("sslmode=verify-ca {other}")), @"Refused: Postgres at localhost:PORT: the server's certificate is refused (sslmode=verify-ca): invalid peer certificate: UnknownIssuer. No certificate in sslrootcert has signed it; give the authority's certificate there");
    // With a root certificate, `require` verifies.
    insta::assert_snapshot!(refusal("localhost", &format!("sslmode=require {other}")), @"Refused: Postgres at localhost:PORT: the server's certificate is refused (sslmode=require): invalid peer certificate: UnknownIssuer. No certificate in sslrootcert has signed it; give the authority's certificate there");
    insta::assert_snapshot!(refusal("elsewhere.example", &format!("sslmode=verify-full {root}")), @r#"Refused: Postgres at elsewhere.example:PORT: the server's certificate is refused (sslmode=verify-full): invalid peer certificate: certificate not valid for name "elsewhere.example"; certificate is only valid for DnsName("localhost") or IpAddress(127.0.0.1). It is not valid for elsewhere.example (only its subjectAltName counts); connect by a name that it contains, or issue one that contains this name"#);
    insta::assert_snapshot!(refusal("localhost", "sslmode=verify-full"), @r#"Refused: sslmode=verify-full needs sslrootcert: the file with the authority's certificate, or with verify-full "system""#);
    insta::assert_snapshot!(refusal("localhost", "sslmode=verify-ca sslrootcert=/nowhere/root.crt"), @"Refused: sslrootcert /nowhere/root.crt: No such file or directory (os error 2)");
}

#[test]
fn allow_and_prefer_try_the_other_way_where_pg_hba_has_no_entry_for_the_first() {
    let fixture = Fixture::start();
    assert!(fixture.is_encrypted("localhost", "sealed", "sslmode=allow"));
    assert!(!fixture.is_encrypted("localhost", "open", "sslmode=prefer"));
    insta::assert_snapshot!(fixture.refusal("localhost", "open", "sslmode=require"), @r#"Refused: Postgres at localhost:PORT: could not log in as open to database postgres: no pg_hba.conf entry for host "127.0.0.1", user "open", database "postgres", SSL encryption [SQLSTATE 28000]. Add a line to the server's pg_hba.conf and reload it (SELECT pg_catalog.pg_reload_conf();): hostssl postgres open 127.0.0.1/32 scram-sha-256"#);
}

#[test]
fn scram_binds_to_the_channel_whatever_the_certificate_is_signed_with() {
    let fixture = Fixture::start();
    let bound = "password=secret sslmode=require channel_binding=require";
    assert!(fixture.is_encrypted("localhost", "scram", bound));
    assert!(fixture.is_encrypted("localhost", "scram", "password=secret sslmode=require channel_binding=disable"));
    for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let authority = Authority::signing_with(algorithm);
        let leaf = authority.server(&["localhost"]);
        fixture.server.write_file("server.crt", &leaf.certificate);
        fixture.server.write_file("server.key", &leaf.key);
        fixture.server.reload();
        if *algorithm == rcgen::PKCS_ED25519 {
            insta::assert_snapshot!(fixture.refusal("localhost", "scram", bound), @"Refused: Postgres at localhost:PORT: channel_binding=require cannot be had: the signature of the server's certificate defines no hash for it (Ed25519)");
            assert!(fixture.is_encrypted("localhost", "scram", "password=secret sslmode=require"));
        } else {
            assert!(fixture.is_encrypted("localhost", "scram", bound));
        }
    }
}

#[test]
fn a_client_certificate_logs_in_and_a_bad_one_is_refused_by_name() {
    let fixture = Fixture::start();
    let leaf = fixture.authority.client("holder");
    let certificate = private_file(fixture.dir.path(), "client.crt", &leaf.certificate);
    let key = private_file(fixture.dir.path(), "client.key", &leaf.key);
    let with = |certificate: &PathBuf, key: &PathBuf| {
        format!("sslmode=require sslcert={} sslkey={}", certificate.display(), key.display())
    };
    assert!(fixture.is_encrypted("localhost", "holder", &with(&certificate, &key)));
    let refusal = |more: &str| fixture.refusal("localhost", "holder", more);
    insta::assert_snapshot!(refusal("sslmode=require"), @"Refused: Postgres at localhost:PORT: could not log in as holder to database postgres: connection requires a valid client certificate [SQLSTATE 28000]. Check that the role exists and may log in (CREATE ROLE holder LOGIN REPLICATION; or ALTER ROLE holder LOGIN;) and, where pg_hba.conf asks for a client certificate, that sslcert and sslkey are given.");
    insta::assert_snapshot!(refusal(&with(&certificate, &fixture.root)), @"Refused: sslkey DIR/root.crt: no private key in PEM (PKCS#8, PKCS#1 or SEC1) in it");
    insta::assert_snapshot!(refusal(&with(&key, &key)), @"Refused: sslcert DIR/client.key: no certificate in it; it must hold PEM, beginning with -----BEGIN CERTIFICATE-----");
    let other_key = private_file(fixture.dir.path(), "other.key", &fixture.authority.client("x").key);
    insta::assert_snapshot!(refusal(&with(&certificate, &other_key)), @"Refused: sslcert DIR/client.crt: certificate and sslkey cannot be used: keys may not be consistent: KeyMismatch");
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    insta::assert_snapshot!(refusal(&with(&certificate, &key)), @"Refused: sslkey DIR/client.key: others can read it; chmod 600 it (0640 where root owns it)");
}

#[test]
fn a_self_signed_server_certificate_can_be_its_own_root() {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap().self_signed(&key).unwrap();
    let leaf = Leaf { certificate: certificate.pem(), key: key.serialize_pem() };
    let fixture = Fixture::with(Authority::new("unused"), &leaf);
    let root = private_file(fixture.dir.path(), "own.crt", &leaf.certificate);
    let more = format!("sslmode=verify-full sslrootcert={}", root.display());
    assert!(fixture.is_encrypted("localhost", "postgres", &more));
    assert!(fixture.refusal("elsewhere.example", "postgres", &more).contains("not valid for elsewhere.example"));
}

#[test]
fn a_self_signed_server_certificate_that_names_nobody_is_known_by_itself() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "db");
    let certificate = params.self_signed(&key).unwrap();
    let leaf = Leaf { certificate: certificate.pem(), key: key.serialize_pem() };
    let fixture = Fixture::with(Authority::new("unused"), &leaf);
    let root = private_file(fixture.dir.path(), "own.crt", &leaf.certificate);
    for mode in ["verify-ca", "verify-full"] {
        let more = format!("sslmode={mode} sslrootcert={}", root.display());
        assert!(fixture.is_encrypted("localhost", "postgres", &more), "{mode}");
    }
    let other = private_file(fixture.dir.path(), "other.crt", &params.self_signed(&key).unwrap().pem());
    let more = format!("sslmode=verify-full sslrootcert={}", other.display());
    fixture.refusal("localhost", "postgres", &more);
}

#[test]
fn a_server_without_tls_is_refused_where_tls_is_demanded_and_used_where_it_is_preferred() {
    let server = Postgres::shared();
    let text = |mode: &str| format!("host=127.0.0.1 port={} user=postgres sslmode={mode}", server.port());
    look(&text("prefer")).unwrap();
    look(&text("allow")).unwrap();
    let error = look(&text("require")).unwrap_err();
    insta::assert_snapshot!(settled_text(&error, &[(&server.port().to_string(), "PORT")]), @"Refused: Postgres at 127.0.0.1:PORT: the server does not offer TLS and sslmode=require demands it: set ssl = on there, with ssl_cert_file and ssl_key_file");
}

#[test]
fn a_stream_flows_over_tls() {
    let fixture = Fixture::start();
    let database = Database::create_on(Arc::clone(&fixture.server));
    let mut followed = Followed::on(database, |database| {
        fixture.dsn("localhost", "postgres", &format!("sslmode=require dbname={}", database.name))
    });
    followed.database.run("INSERT INTO t SELECT i, repeat('x', 500) FROM generate_series(1, 20000) i");
    let rows =
        |got: &[super::Got]| got.iter().filter(|got| matches!(got, super::Got::Data(data) if data[0] == b'I')).count();
    let got = followed.read_until("every row", |got| rows(got) == 20_000);
    assert_eq!(rows(&got), 20_000);
    let Followed { runtime, stream, mut source, .. } = followed;
    runtime.block_on(async { coherd::postgres::Stream::finish(stream).await }).unwrap();
    runtime.block_on(source.look()).unwrap();
}
