//! Redis over TLS.

use std::path::PathBuf;

use coherd::targets::FaultKind;
use coherd::targets::config::TargetConfig;
use coherd::types::invalidation::Action;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use super::conformance::conforms;
use super::{Asked, config, deliver, delivery, open};
use crate::support::Redis;
use crate::support::process::free_port;

/// A certificate authority with a server's and a client's certificate, as files.
struct Certificates {
    dir: TempDir,
}

impl Certificates {
    fn make() -> Certificates {
        let dir = tempfile::tempdir().expect("temp dir");
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        // OpenSSL treats a certificate that has its issuer's name as self-signed.
        params.distinguished_name.push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("key");
        let ca = params.self_signed(&key).expect("ca");
        std::fs::write(dir.path().join("ca.pem"), ca.pem()).expect("written");
        let issuer = Issuer::from_params(&params, &key);
        for name in ["localhost", "client"] {
            let key = KeyPair::generate().expect("key");
            let params = CertificateParams::new(vec![name.to_owned()]).expect("params");
            let signed = params.signed_by(&key, &issuer).expect("signed");
            std::fs::write(dir.path().join(format!("{name}.pem")), signed.pem()).expect("written");
            std::fs::write(dir.path().join(format!("{name}.key")), key.serialize_pem()).expect("written");
        }
        Certificates { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes a self-signed certificate for `names`, which may be empty.
    fn sign_itself(&self, file: &str, names: &[&str], edit: impl FnOnce(&mut CertificateParams)) {
        let key = KeyPair::generate().expect("key");
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("params");
        params.distinguished_name.push(DnType::CommonName, file);
        edit(&mut params);
        let signed = params.self_signed(&key).expect("signed");
        std::fs::write(self.path(&format!("{file}.pem")), signed.pem()).expect("written");
        std::fs::write(self.path(&format!("{file}.key")), key.serialize_pem()).expect("written");
    }

    /// A server with TLS on a port of its own.
    fn serve(&self, auth_clients: &str) -> (Redis, u16) {
        self.serve_as("localhost", auth_clients)
    }

    fn serve_as(&self, name: &str, auth_clients: &str) -> (Redis, u16) {
        let port = free_port();
        let (cert, key) = (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")));
        let ca = self.path("ca.pem");
        let server = Redis::start_with(&[
            "--tls-port",
            &port.to_string(),
            "--tls-cert-file",
            cert.to_str().expect("utf-8"),
            "--tls-key-file",
            key.to_str().expect("utf-8"),
            "--tls-ca-cert-file",
            ca.to_str().expect("utf-8"),
            "--tls-auth-clients",
            auth_clients,
        ]);
        (server, port)
    }

    fn config(&self, host: &str, port: u16) -> TargetConfig {
        let mut config = config(&format!("rediss://{host}:{port}/0"));
        config.tls.ca_file = Some(self.path("ca.pem"));
        config
    }
}

#[tokio::test]
async fn redis_conforms_over_tls_with_a_certificate_authority_of_its_own() {
    let certificates = Certificates::make();
    let (server, port) = certificates.serve("no");
    conforms(open(&certificates.config("localhost", port)), &mut Asked::of(&server)).await;
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_the_server_asks_for_one() {
    let certificates = Certificates::make();
    let (_server, port) = certificates.serve("yes");
    let mut config = certificates.config("localhost", port);
    let fault = open(&config).load_record().await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Connection, "{fault}");
    config.tls.cert_file = Some(certificates.path("client.pem"));
    config.tls.key_file = Some(certificates.path("client.key"));
    deliver(&*open(&config), &delivery(1, &[(Action::Delete, "k")])).await.unwrap();
}

#[tokio::test]
async fn a_certificate_of_another_name_or_authority_is_refused() {
    let certificates = Certificates::make();
    let (_server, port) = certificates.serve("no");
    let fault = open(&certificates.config("127.0.0.1", port)).load_record().await.unwrap_err();
    assert!(fault.kind == FaultKind::Connection && fault.message.contains("certificate"), "{fault}");
    let stranger = Certificates::make();
    let fault = open(&stranger.config("localhost", port)).load_record().await.unwrap_err();
    assert!(fault.kind == FaultKind::Connection && fault.message.contains("certificate"), "{fault}");
    let system = config(&format!("rediss://localhost:{port}/0"));
    assert_eq!(open(&system).load_record().await.unwrap_err().kind, FaultKind::Connection);
}

#[tokio::test]
async fn a_certificate_that_signs_itself_can_be_its_own_authority() {
    let certificates = Certificates::make();
    // A leaf, an authority without a host name (as `openssl req -x509` makes it), and an authority with a host name.
    let of_an_authority = |params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    certificates.sign_itself("leaf", &["localhost"], |_| {});
    certificates.sign_itself("nameless", &[], of_an_authority);
    certificates.sign_itself("named", &["localhost"], of_an_authority);
    certificates.sign_itself("other", &["localhost"], of_an_authority);
    for (name, hosts) in
        [("leaf", ["localhost"].as_slice()), ("nameless", &["localhost", "127.0.0.1"]), ("named", &["localhost"])]
    {
        let (server, port) = certificates.serve_as(name, "no");
        for host in hosts {
            let mut config = certificates.config(host, port);
            config.tls.ca_file = Some(certificates.path(&format!("{name}.pem")));
            let delivered = deliver(&*open(&config), &delivery(1, &[(Action::Delete, "k")])).await;
            assert!(delivered.is_ok(), "{name} at {host}: {delivered:?}");
        }
        // Another self-signed certificate, even one with the same name, is not accepted as its authority.
        let mut config = certificates.config("localhost", port);
        config.tls.ca_file = Some(certificates.path("other.pem"));
        let fault = open(&config).load_record().await.unwrap_err();
        assert!(fault.kind == FaultKind::Connection && fault.message.contains("certificate"), "{name}: {fault}");
        if name != "nameless" {
            let mut config = certificates.config("127.0.0.1", port);
            config.tls.ca_file = Some(certificates.path(&format!("{name}.pem")));
            let fault = open(&config).load_record().await.unwrap_err();
            assert!(fault.message.contains("certificate"), "it names another host: {fault}");
        }
        drop(server);
    }
}

#[tokio::test]
async fn a_certificate_is_its_own_authority_only_in_its_time_and_with_its_key() {
    let certificates = Certificates::make();
    certificates.sign_itself("old", &["localhost"], |params| {
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2021, 1, 1));
    });
    let (_server, port) = certificates.serve_as("old", "no");
    let mut config = certificates.config("localhost", port);
    config.tls.ca_file = Some(certificates.path("old.pem"));
    let fault = open(&config).load_record().await.unwrap_err();
    assert!(fault.message.to_lowercase().contains("expired"), "{fault}");
}

#[test]
fn files_that_cannot_be_used_are_refused_at_start_with_their_field() {
    let certificates = Certificates::make();
    let refusal = |config: &TargetConfig| coherd::targets::open(config).map(drop).unwrap_err().to_string();
    let mut config = certificates.config("localhost", 1);
    config.tls.ca_file = Some(certificates.path("missing.pem"));
    assert!(refusal(&config).contains("targets.cache.ca_file: reading "), "{}", refusal(&config));
    let mut config = certificates.config("localhost", 1);
    config.tls.cert_file = Some(certificates.path("client.pem"));
    assert!(refusal(&config).contains("targets.cache.key_file: it is missing"), "{}", refusal(&config));
    let mut config = super::config("redis://localhost/0");
    config.tls.ca_file = Some(certificates.path("ca.pem"));
    assert!(refusal(&config).contains("rediss://"), "{}", refusal(&config));
}

#[test]
fn a_url_that_cannot_be_used_is_refused_without_its_password() {
    for url in [
        "redis://coherd:hunter2@host:port/0",
        "redis://coherd:hunter2@host/zero",
        "redis://coherd:hunter2@/0",
        "redis://coherd:hunter2@host/0?protocol=hunter2",
        "rediss://coherd:hunter2@host/0#insecure",
        "redis://coherd:hun#ter2@host/0",
    ] {
        let text = coherd::targets::open(&config(url)).map(drop).unwrap_err().to_string();
        assert!(text.starts_with("targets.cache.url: ") && !text.contains("hunter2"), "{url}: {text}");
    }
}

#[tokio::test]
async fn renewed_certificates_are_read_at_the_next_connect() {
    let (certificates, renewed) = (Certificates::make(), Certificates::make());
    let (mut server, port) = certificates.serve("yes");
    let mut config = certificates.config("localhost", port);
    config.tls.cert_file = Some(certificates.path("client.pem"));
    config.tls.key_file = Some(certificates.path("client.key"));
    let target = open(&config);
    target.deliver(&delivery(1, &[(Action::Delete, "k")])).await.unwrap();
    for name in ["ca.pem", "localhost.pem", "localhost.key", "client.pem", "client.key"] {
        std::fs::copy(renewed.path(name), certificates.path(name)).unwrap();
    }
    server.restart();
    // The first delivery finds that the connection is gone.
    let _ = target.deliver(&delivery(2, &[(Action::Delete, "k")])).await;
    deliver(&*target, &delivery(3, &[(Action::Delete, "k")])).await.unwrap();
}
