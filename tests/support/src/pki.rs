//! A certification authority for a test, and certificates of RFC 6109 s. 5.5's profile.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::extension::{AuthorityKeyIdentifier, BasicConstraints, KeyUsage, SubjectAlternativeName, SubjectKeyIdentifier};
use openssl::x509::{X509, X509NameBuilder};
use pec_core::clock::Moment;
use pec_core::identifier::hex;
use pec_core::smime::own::{KeyError, OwnCertificate};
use pec_core::smime::pem::PemSigner;

/// The middle of the certificates' life: tests that do not care what time it is begin here.
pub const NOW: i64 = 1_795_000_000;

const YEAR: i64 = 365 * 86_400;

/// A root, the issuing CA below it, and the directory in which everything lies.
pub struct Pki {
    directory: PathBuf,
    root: (X509, PKey<Private>),
    issuing: (X509, PKey<Private>),
}

/// A provider's files.
#[derive(Debug, Clone)]
pub struct Keys {
    /// Certificate, then the issuing CA.
    pub certificate_file: PathBuf,
    /// The private key.
    pub key_file: PathBuf,
    /// SHA-1 of the certificate, hexadecimal.
    pub sha1: String,
    /// The provider's name.
    pub name: String,
}

impl Keys {
    /// Certificate and key, as the milters read them at `now`.
    pub fn signer(&self, address: &str, now: i64) -> Result<PemSigner, KeyError> {
        PemSigner::read(OwnCertificate::read(&self.certificate_file, address, &self.name, Moment::from_unix(now))?, &self.key_file)
    }
}

impl Pki {
    /// Makes the CAs below `directory`.
    pub fn new(directory: &Path) -> Self {
        let key = new_key(2048);
        let root = certificate("Prova Root CA", None, &key, None, NOW - YEAR, NOW + 9 * YEAR);
        let root = (root, key);
        let key = new_key(2048);
        let issuing = certificate("Prova CA 1", None, &key, Some(&root), NOW - YEAR, NOW + 9 * YEAR);
        let pki = Self { directory: directory.to_owned(), root, issuing: (issuing, key) };
        fs::write(pki.ca_file(), pki.root.0.to_pem().unwrap()).unwrap();
        pki
    }

    /// The root, as `pec_ca_file`.
    pub fn ca_file(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// The issuing CA, for certificates of other kinds.
    pub fn issuing(&self) -> (&X509, &PKey<Private>) {
        (&self.issuing.0, &self.issuing.1)
    }

    /// A provider's key and certificate for `address`, valid for a year around [`NOW`].
    pub fn provider(&self, name: &str, address: &str) -> Keys {
        self.provider_valid(name, address, NOW - YEAR, NOW + YEAR)
    }

    /// The same, valid between two moments.
    pub fn provider_valid(&self, name: &str, address: &str, from: i64, to: i64) -> Keys {
        self.issue(name, address, new_key(2048), from, to)
    }

    /// The same with a key of so many bits.
    pub fn provider_of_bits(&self, name: &str, address: &str, bits: u32) -> Keys {
        self.issue(name, address, new_key(bits), NOW - YEAR, NOW + YEAR)
    }

    fn issue(&self, name: &str, address: &str, key: PKey<Private>, from: i64, to: i64) -> Keys {
        let certificate = certificate(name, Some(address), &key, Some(&self.issuing), from, to);
        // A provider has several, while one replaces another.
        let sha1 = hex(&certificate.digest(MessageDigest::sha1()).unwrap());
        let keys = Keys {
            certificate_file: self.directory.join(format!("{name} {sha1}.pem")),
            key_file: self.directory.join(format!("{name} {sha1}.key")),
            sha1,
            name: name.to_owned(),
        };
        fs::write(&keys.certificate_file, [certificate.to_pem().unwrap(), self.issuing.0.to_pem().unwrap()].concat()).unwrap();
        fs::write(&keys.key_file, key.private_key_to_pem_pkcs8().unwrap()).unwrap();
        fs::set_permissions(&keys.key_file, fs::Permissions::from_mode(0o600)).unwrap();
        keys
    }
}

fn new_key(bits: u32) -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap()
}

/// A CA's certificate, or, with an address, a provider's.
fn certificate(name: &str, address: Option<&str>, key: &PKey<Private>, issuer: Option<&(X509, PKey<Private>)>, from: i64, to: i64) -> X509 {
    let mut subject = X509NameBuilder::new().unwrap();
    subject.append_entry_by_text("C", "IT").unwrap();
    subject.append_entry_by_text("O", name).unwrap();
    subject.append_entry_by_text("CN", if address.is_some() { "Posta Certificata" } else { name }).unwrap();
    let subject = subject.build();
    let mut serial = BigNum::new().unwrap();
    serial.rand(120, MsbOption::ONE, false).unwrap();

    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&serial.to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(&subject).unwrap();
    builder.set_issuer_name(issuer.map_or(&*subject, |(i, _)| i.subject_name())).unwrap();
    builder.set_not_before(&Asn1Time::from_unix(from).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::from_unix(to).unwrap()).unwrap();
    builder.set_pubkey(key).unwrap();
    let extension = SubjectKeyIdentifier::new().build(&builder.x509v3_context(issuer.map(|(i, _)| &**i), None)).unwrap();
    builder.append_extension(extension).unwrap();
    if issuer.is_some() {
        let extension = AuthorityKeyIdentifier::new().keyid(true).build(&builder.x509v3_context(issuer.map(|(i, _)| &**i), None)).unwrap();
        builder.append_extension(extension).unwrap();
    }
    match address {
        Some(address) => {
            builder.append_extension(KeyUsage::new().critical().digital_signature().build().unwrap()).unwrap();
            let extension = SubjectAlternativeName::new().email(address).build(&builder.x509v3_context(issuer.map(|(i, _)| &**i), None)).unwrap();
            builder.append_extension(extension).unwrap();
        }
        None => {
            builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
            builder.append_extension(KeyUsage::new().critical().key_cert_sign().crl_sign().build().unwrap()).unwrap();
        }
    }
    builder.sign(issuer.map_or(key, |(_, k)| k), MessageDigest::sha256()).unwrap();
    builder.build()
}
