//! Opens a connection to a server, over TCP, TLS or a unix socket. What the server sends on it is measured.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use redis::ConnectionAddr;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::bounds::{Bounded, Ended};
use crate::targets::config::TlsFiles;
use crate::targets::{Fault, FaultKind};
use crate::tls::{Roots, Trust, Verifier, certificates};

/// A connection on which nothing has been sent yet.
pub(super) type Wire = Pin<Box<dyn Stream>>;

/// Bytes in both directions.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send {}
impl<S: AsyncRead + AsyncWrite + Send> Stream for S {}

/// Why there is no connection.
pub(super) enum Failed {
    /// An error from the server or the network.
    Io(io::Error),
    /// No answer within this time.
    Late(Duration),
    /// A configured file that cannot be used: the field that names it, and why.
    File(&'static str, String),
    /// A kind of address that coherd cannot connect to.
    Unsupported,
}

impl Failed {
    pub(super) fn fault(&self, place: &str) -> Fault {
        let (kind, what) = match self {
            Failed::Io(error) => {
                (FaultKind::Connection, format!("connecting: {error}; is the server up and reachable?"))
            }
            Failed::Late(after) => {
                let text =
                    format!("connecting: no answer in {} ms; is the server up and reachable?", after.as_millis());
                (FaultKind::Connection, text)
            }
            Failed::File(field, reason) => (FaultKind::Denied, format!("{field}: {reason}")),
            Failed::Unsupported => (FaultKind::Denied, "this kind of address is not supported".to_owned()),
        };
        Fault { kind, message: format!("{place}: {what}") }
    }
}

/// Opens a connection within `most`.
pub(super) async fn dial(
    address: &ConnectionAddr,
    tls: &TlsFiles,
    most: Duration,
    ended: &Ended,
) -> Result<Wire, Failed> {
    let opened = tokio::time::timeout(most, open(address, tls, Instant::now() + most, ended)).await;
    opened.unwrap_or(Err(Failed::Late(most)))
}

async fn open(address: &ConnectionAddr, tls: &TlsFiles, until: Instant, ended: &Ended) -> Result<Wire, Failed> {
    Ok(match address {
        ConnectionAddr::Tcp(host, port) => Box::pin(Bounded::new(tcp(host, *port, until).await?, ended)),
        ConnectionAddr::TcpTls { host, port, .. } => {
            let config = client_config(tls).map_err(|(field, reason)| Failed::File(field, reason))?;
            let no_name =
                |_| io::Error::new(io::ErrorKind::InvalidInput, "the host is no name that a certificate can hold");
            let name = ServerName::try_from(host.clone()).map_err(no_name).map_err(Failed::Io)?;
            let stream = tcp(host, *port, until).await?;
            let connector = TlsConnector::from(Arc::new(config));
            Box::pin(Bounded::new(connector.connect(name, stream).await.map_err(Failed::Io)?, ended))
        }
        ConnectionAddr::Unix(path) => {
            Box::pin(Bounded::new(UnixStream::connect(path).await.map_err(Failed::Io)?, ended))
        }
        _ => return Err(Failed::Unsupported),
    })
}

/// Tries one address after the other. Each has its share of the remaining time, so that one that swallows packets does
/// not keep the others from being tried.
async fn tcp(host: &str, port: u16, until: Instant) -> Result<TcpStream, Failed> {
    let addresses: Vec<SocketAddr> = lookup_host((host, port)).await.map_err(Failed::Io)?.collect();
    let mut failed = Failed::Io(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    let mut left = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
    for address in addresses {
        let share = until.saturating_duration_since(Instant::now()) / left;
        left -= 1;
        match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true).map_err(Failed::Io)?;
                return Ok(stream);
            }
            Ok(Err(error)) => failed = Failed::Io(error),
            Err(_) => failed = Failed::Late(share),
        }
    }
    Err(failed)
}

/// The TLS configuration that the files describe. They are read at each connect, so that renewed ones take effect. An
/// error names the field and says what is wrong.
pub(super) fn client_config(files: &TlsFiles) -> Result<ClientConfig, (&'static str, String)> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = match &files.ca_file {
        Some(path) => Roots::of(read_certificates("ca_file", path)?),
        None => Roots::of_system().ok_or_else(|| {
            let text = "the system has no certificate store; install ca-certificates or name a file";
            ("ca_file", text.to_owned())
        })?,
    };
    let trust = Trust::SignedForName(roots);
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| ("ca_file", format!("TLS cannot be set up: {error}")))?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(Verifier { trust, provider }));
    match (&files.cert_file, &files.key_file) {
        (Some(cert), Some(key)) => {
            let chain = read_certificates("cert_file", cert)?;
            let text = read("key_file", key)?;
            let private = PrivateKeyDer::from_pem_slice(&text).map_err(|_| {
                let problem = "no private key in PEM (PKCS#8, PKCS#1 or SEC1) in it";
                ("key_file", format!("{}: {problem}", key.display()))
            })?;
            let bad = |error| ("cert_file", format!("{} and key_file cannot be used: {error}", cert.display()));
            builder.with_client_auth_cert(chain, private).map_err(bad)
        }
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(_), None) => Err(("key_file", "it is missing: cert_file needs it".to_owned())),
        (None, Some(_)) => Err(("cert_file", "it is missing: key_file needs it".to_owned())),
    }
}

fn read(field: &'static str, path: &Path) -> Result<Vec<u8>, (&'static str, String)> {
    std::fs::read(path).map_err(|error| (field, format!("reading {}: {error}", path.display())))
}

fn read_certificates(field: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, (&'static str, String)> {
    match certificates(&read(field, path)?) {
        Ok(some) if !some.is_empty() => Ok(some),
        _ => {
            let problem = "no certificate in PEM (-----BEGIN CERTIFICATE-----) in it";
            Err((field, format!("{}: {problem}", path.display())))
        }
    }
}
