//! Which certificates coherd accepts from Postgres and from caches. The same rules apply to every server.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;

/// Trusted certificates.
#[derive(Debug)]
pub struct Roots {
    store: RootCertStore,
    /// The certificates as they are in the file. A server's own self-signed certificate is often configured as its
    /// root: OpenSSL accepts that, and webpki's chain building does not.
    themselves: Vec<CertificateDer<'static>>,
}

impl Roots {
    /// The system's certificate store; `None` if it has no certificates.
    pub fn of_system() -> Option<Roots> {
        let mut store = RootCertStore::empty();
        let (added, _) = store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        (added > 0).then(|| Roots { store, themselves: Vec::new() })
    }

    /// The certificates from a file.
    pub fn of(themselves: Vec<CertificateDer<'static>>) -> Roots {
        let mut store = RootCertStore::empty();
        // webpki cannot parse version 1 certificates, but such a certificate can still be the server's own.
        store.add_parsable_certificates(themselves.iter().cloned());
        Roots { store, themselves }
    }

    /// Checks that the server's certificate is a root itself or is signed by one, and that it has not expired. The
    /// handshake proves that the server holds the private key.
    fn verify(
        &self,
        server: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<(), Error> {
        if self.holds(server) {
            return is_in_its_time(server, now);
        }
        let parsed = ParsedCertificate::try_from(server)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.store, between, now, algorithms.all)
    }

    /// Checks that the server's certificate was issued for `name`. A root that contains no name (`openssl req -x509`
    /// creates such) is accepted for any: trusting that certificate already identifies the server.
    fn verify_name(&self, server: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), Error> {
        if self.holds(server) && !names_anybody(server)? {
            return Ok(());
        }
        verify_server_name(&ParsedCertificate::try_from(server)?, name)
    }

    fn holds(&self, server: &CertificateDer<'_>) -> bool {
        self.themselves.iter().any(|root| root == server)
    }
}

/// How strictly the server's certificate is verified.
#[derive(Debug)]
pub enum Trust {
    /// Encryption only: any certificate is accepted.
    Anybody,
    /// The certificate is one of these roots or is signed by one.
    Signed(Roots),
    /// Like `Signed`, and the certificate was issued for the host name.
    SignedForName(Roots),
}

/// A [`Trust`] as a rustls verifier.
#[derive(Debug)]
pub struct Verifier {
    /// What is required of the server's certificate.
    pub trust: Trust,
    /// The provider of the signature algorithms.
    pub provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.provider.signature_verification_algorithms
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        server: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.trust {
            Trust::Anybody => {}
            Trust::Signed(roots) => roots.verify(server, between, now, self.algorithms())?,
            Trust::SignedForName(roots) => {
                roots.verify(server, between, now, self.algorithms())?;
                roots.verify_name(server, name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, self.algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, self.algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms().supported_schemes()
    }
}

/// The certificates in PEM text, in order; empty if there are none.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    CertificateDer::pem_slice_iter(pem).collect()
}

fn parsed(der: &[u8]) -> Result<x509_cert::Certificate, Error> {
    x509_cert::Certificate::from_der(der).map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))
}

fn names_anybody(der: &[u8]) -> Result<bool, Error> {
    let names = parsed(der)?.tbs_certificate().get_extension::<SubjectAltName>();
    // A name extension that cannot be parsed counts as a name.
    Ok(!matches!(names, Ok(None)))
}

fn is_in_its_time(der: &[u8], now: UnixTime) -> Result<(), Error> {
    let certificate = parsed(der)?;
    let validity = certificate.tbs_certificate().validity();
    let now = Duration::from_secs(now.as_secs());
    if now < validity.not_before.to_unix_duration() {
        return Err(Error::InvalidCertificate(CertificateError::NotValidYet));
    }
    if now > validity.not_after.to_unix_duration() {
        return Err(Error::InvalidCertificate(CertificateError::Expired));
    }
    Ok(())
}
