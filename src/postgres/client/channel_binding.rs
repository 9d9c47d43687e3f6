//! The channel binding `tls-server-end-point` (RFC 5929, section 4): a hash of the server's certificate.

use sha2::{Digest, Sha256, Sha384, Sha512};
use x509_cert::der::Decode;
use x509_cert::der::asn1::ObjectIdentifier;

/// Signature algorithms whose hash is neither MD5 nor SHA-1 (which SHA-256 replaces) nor SHA-256, with the size of the
/// hash (RFC 4055, RFC 5758).
const LONGER: &[(&str, u16)] = &[
    ("1.2.840.113549.1.1.12", 384),  // sha384WithRSAEncryption
    ("1.2.840.113549.1.1.13", 512),  // sha512WithRSAEncryption
    ("1.2.840.10045.4.3.3", 384),    // ecdsa-with-SHA384
    ("1.2.840.10045.4.3.4", 512),    // ecdsa-with-SHA512
    ("2.16.840.1.101.3.4.2.2", 384), // SHA-384, as RSASSA-PSS names it
    ("2.16.840.1.101.3.4.2.3", 512), // SHA-512, as RSASSA-PSS names it
];

/// RSASSA-PSS names its hash in the parameters.
const RSASSA_PSS: &str = "1.2.840.113549.1.1.10";

/// Ed25519 and Ed448 have no hash of their own, so there is no such binding for them (RFC 5929 leaves it undefined).
const UNDEFINED: &[&str] = &["1.3.101.112", "1.3.101.113"];

/// The binding data for a certificate in DER; `None` if its signature algorithm defines none.
pub(in crate::postgres) fn server_end_point(der: &[u8]) -> Option<Vec<u8>> {
    let certificate = x509_cert::Certificate::from_der(der).ok()?;
    let algorithm = certificate.signature_algorithm();
    let mut name = algorithm.oid.to_string();
    if UNDEFINED.contains(&name.as_str()) {
        return None;
    }
    if name == RSASSA_PSS {
        name = pss_hash(algorithm.parameters.as_ref()?.value()).unwrap_or_default();
    }
    let bits = LONGER.iter().find(|(longer, _)| *longer == name).map_or(256, |(_, bits)| *bits);
    Some(match bits {
        384 => Sha384::digest(der).to_vec(),
        512 => Sha512::digest(der).to_vec(),
        _ => Sha256::digest(der).to_vec(),
    })
}

/// `RSASSA-PSS-params ::= SEQUENCE { [0] HashAlgorithm DEFAULT sha1, … }` (RFC 4055). The object identifier is at a
/// fixed place, after the headers of `[0]` and of the algorithm's own SEQUENCE.
fn pss_hash(parameters: &[u8]) -> Option<String> {
    let [0xA0, _, 0x30, _, rest @ ..] = parameters else { return None };
    let (length, body) = rest.strip_prefix(&[0x06])?.split_first()?;
    let body = body.get(..usize::from(*length))?;
    ObjectIdentifier::from_bytes(body).ok().map(|oid| oid.to_string())
}
