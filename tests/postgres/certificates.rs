//! Certificates for tests, generated at run time.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

/// A certificate authority.
pub struct Authority {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
pub struct Leaf {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    /// A new authority.
    pub fn new(name: &str) -> Authority {
        Authority::with(name, KeyPair::generate().unwrap())
    }

    /// A new authority that signs with `algorithm`.
    pub fn signing_with(algorithm: &'static rcgen::SignatureAlgorithm) -> Authority {
        Authority::with("test authority", KeyPair::generate_for(algorithm).unwrap())
    }

    fn with(name: &str, key: KeyPair) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { pem, issuer: Issuer::new(params, key) }
    }

    /// A server's certificate for `names`.
    pub fn server(&self, names: &[&str]) -> Leaf {
        self.leaf("server", names, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A client's certificate for the role `user`.
    pub fn client(&self, user: &str) -> Leaf {
        self.leaf(user, &[], ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn leaf(&self, name: &str, names: &[&str], usage: ExtendedKeyUsagePurpose) -> Leaf {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages.push(usage);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Leaf { certificate, key: key.serialize_pem() }
    }
}

/// Writes a file that only its owner can read.
pub fn private_file(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    path
}
