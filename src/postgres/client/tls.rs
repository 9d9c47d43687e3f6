//! TLS with rustls, as libpq's `sslmode`, `sslrootcert`, `sslcert` and `sslkey` specify it.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{CertificateError, ClientConfig};
use tokio::io::BufReader;
use tokio::net::TcpStream;
use x509_cert::der::Decode;

use super::dsn::{FileChoice, Host, RootChoice, SslMode, TlsChoice};
use super::socket::{Socket, TLS_READ_BYTES};
use crate::postgres::SourceError;
use crate::tls::{Roots, Trust, Verifier, certificates};

/// A TLS client, ready for any host of one connection string.
#[derive(Clone)]
pub(in crate::postgres) struct Tls {
    config: Arc<ClientConfig>,
    mode: SslMode,
}

impl Tls {
    /// Reads the files that `choice` names. This happens at each connect, so that renewed certificates take effect.
    pub(in crate::postgres) fn new(choice: &TlsChoice) -> Result<Tls, SourceError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let trust = trust(choice)?;
        let versions: &[_] = if choice.only_1_3 { &[&rustls::version::TLS13] } else { rustls::DEFAULT_VERSIONS };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions);
        let builder = builder.map_err(|error| SourceError::refused("TLS cannot be set up").caused_by(error))?;
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(Verifier { trust, provider }));
        let mut config = match client_identity(choice)? {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let path = identity.certificate_path.display().to_string();
                builder.with_client_auth_cert(identity.chain, identity.key).map_err(|error| {
                    SourceError::refused(format!("sslcert {path}: certificate and sslkey cannot be used"))
                        .caused_by(error)
                })?
            }
        };
        config.enable_sni = choice.name_indication;
        if choice.direct {
            config.alpn_protocols = vec![b"postgresql".to_vec()];
        }
        Ok(Tls { config: Arc::new(config), mode: choice.mode })
    }

    /// Performs the handshake.
    pub(in crate::postgres) async fn connect(&self, tcp: TcpStream, host: &Host) -> Result<Socket, SourceError> {
        let name = ServerName::try_from(host.name.clone());
        let name = match (name, self.mode) {
            (Ok(name), _) => name,
            (Err(_), SslMode::VerifyFull) => {
                let text = format!("{host}: sslmode=verify-full needs a host name that a certificate can hold");
                return Err(SourceError::refused(text));
            }
            // Nobody checks the name in these modes.
            (Err(_), _) => ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into()),
        };
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&self.config));
        let stream = connector.connect(name, BufReader::with_capacity(TLS_READ_BYTES, tcp)).await;
        stream.map(|stream| Socket::Tls(Box::new(stream))).map_err(|error| self.explain(host, error))
    }

    fn explain(&self, host: &Host, error: std::io::Error) -> SourceError {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let mode = self.mode.name();
        let advice = match inner {
            Some(rustls::Error::InvalidCertificate(certificate)) => match certificate {
                CertificateError::UnknownIssuer => {
                    "No certificate in sslrootcert has signed it; give the authority's certificate there".to_owned()
                }
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => format!(
                    "It is not valid for {} (only its subjectAltName counts); connect by a name that it contains, or \
                     issue one that contains this name",
                    host.name
                ),
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "It has expired; renew it on the server".to_owned()
                }
                _ => "Have a new one issued, as X.509 version 3".to_owned(),
            },
            Some(rustls::Error::AlertReceived(_)) => {
                "The server ended the handshake; its log says why (a client certificate it does not accept?)".to_owned()
            }
            Some(_) => "Both sides must share a TLS version from 1.2 on".to_owned(),
            // The network failed, not TLS.
            None => return SourceError::lost(format!("TLS handshake failed (sslmode={mode})")).caused_by(error),
        };
        let certificate = matches!(inner, Some(rustls::Error::InvalidCertificate(_)));
        let what = if certificate { "the server's certificate is refused" } else { "TLS handshake failed" };
        SourceError::refused(format!("{what} (sslmode={mode})")).caused_by(error).remedy(advice)
    }
}

fn trust(choice: &TlsChoice) -> Result<Trust, SourceError> {
    let mode = choice.mode;
    let roots = match &choice.root {
        RootChoice::System => Some(system_roots()?),
        RootChoice::File(file) => match named_or_there(file) {
            Some(path) if mode >= SslMode::Require => Some(read_roots(path)?),
            _ => None,
        },
    };
    match (mode, roots) {
        (SslMode::VerifyFull, Some(roots)) => Ok(Trust::SignedForName(roots)),
        // As in libpq, a root certificate makes `require` verify.
        (SslMode::VerifyCa | SslMode::Require, Some(roots)) => Ok(Trust::Signed(roots)),
        (SslMode::VerifyCa | SslMode::VerifyFull, None) => Err(SourceError::refused(format!(
            "sslmode={} needs sslrootcert: the file with the authority's certificate, or with verify-full \"system\"",
            mode.name()
        ))),
        (SslMode::Disable | SslMode::Allow | SslMode::Prefer | SslMode::Require, _) => Ok(Trust::Anybody),
    }
}

fn named_or_there(file: &FileChoice) -> Option<&Path> {
    match file {
        FileChoice::Named(path) => Some(path),
        FileChoice::IfThere(path) if path.exists() => Some(path),
        FileChoice::IfThere(_) | FileChoice::None => None,
    }
}

fn system_roots() -> Result<Roots, SourceError> {
    Roots::of_system().ok_or_else(|| {
        let text = "sslrootcert=system: the system has no certificate store; install ca-certificates or name a file";
        SourceError::refused(text.to_owned())
    })
}

fn read_roots(path: &Path) -> Result<Roots, SourceError> {
    read_certificates("sslrootcert", path).map(Roots::of)
}

fn file_error(parameter: &str, path: &Path, problem: &dyn std::fmt::Display) -> SourceError {
    SourceError::refused(format!("{parameter} {}: {problem}", path.display()))
}

fn read_certificates(parameter: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, SourceError> {
    let text = std::fs::read(path).map_err(|error| file_error(parameter, path, &error))?;
    let certificates = certificates(&text).map_err(|_| file_error(parameter, path, &"the PEM text is damaged"))?;
    if certificates.is_empty() {
        let problem = "no certificate in it; it must hold PEM, beginning with -----BEGIN CERTIFICATE-----";
        return Err(file_error(parameter, path, &problem));
    }
    Ok(certificates)
}

struct Identity {
    certificate_path: PathBuf,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

fn client_identity(choice: &TlsChoice) -> Result<Option<Identity>, SourceError> {
    let Some(certificate_path) = named_or_there(&choice.certificate) else { return Ok(None) };
    let chain = read_certificates("sslcert", certificate_path)?;
    for certificate in &chain {
        // rustls says "UnsupportedCertVersion", but not of which certificate.
        let version = x509_cert::Certificate::from_der(certificate).map(|c| c.tbs_certificate().version());
        if !matches!(version, Ok(x509_cert::Version::V3)) {
            let problem = "not an X.509 version 3 certificate; have it issued again with extensions (openssl x509 -req \
                           … -extfile FILE)";
            return Err(file_error("sslcert", certificate_path, &problem));
        }
    }
    let key_path = match &choice.key {
        FileChoice::Named(path) | FileChoice::IfThere(path) => path,
        FileChoice::None => return Err(file_error("sslcert", certificate_path, &"sslkey must be given with it")),
    };
    let key = read_key(key_path)?;
    Ok(Some(Identity { certificate_path: certificate_path.to_owned(), chain, key }))
}

/// Reads a key in PKCS#8, PKCS#1 or SEC1. Like libpq, refuses a key that others can read.
fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, SourceError> {
    let error = |problem: &dyn std::fmt::Display| file_error("sslkey", path, problem);
    let metadata = std::fs::metadata(path).map_err(|e| error(&e))?;
    let forbidden = if metadata.uid() == 0 { 0o027 } else { 0o077 };
    if metadata.permissions().mode() & forbidden != 0 {
        return Err(error(&"others can read it; chmod 600 it (0640 where root owns it)"));
    }
    let text = std::fs::read(path).map_err(|e| error(&e))?;
    if String::from_utf8_lossy(&text).contains("ENCRYPTED") {
        return Err(error(&"the key is encrypted; decrypt it: openssl pkey -in KEY -out PLAIN"));
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|_| error(&"no private key in PEM (PKCS#8, PKCS#1 or SEC1) in it"))
}
