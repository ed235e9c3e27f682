//! Certification authorities for a test, certificates of RFC 6109 s. 5.5's profile, and revocation lists.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use der::Encode as _;
use der::asn1::Ia5String;
use openssl::asn1::{Asn1Object, Asn1OctetString, Asn1Time};
use openssl::bn::{BigNum, MsbOption};
use openssl::cms::CmsContentInfo;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::extension::{
    AuthorityKeyIdentifier, BasicConstraints, KeyUsage, SubjectAlternativeName, SubjectKeyIdentifier,
};
use openssl::x509::{X509, X509CrlBuilder, X509Extension, X509NameBuilder, X509RevokedBuilder};
use pec_core::clock::Moment;
use pec_core::identifier::hex;
use pec_core::smime::own::KeyError;
use pec_core::smime::pem::PemSigner;
use pec_host::read;
use x509_cert::ext::pkix::NameConstraints;
use x509_cert::ext::pkix::constraints::name::GeneralSubtree;
use x509_cert::ext::pkix::crl::dp::DistributionPoint;
use x509_cert::ext::pkix::name::{DistributionPointName, GeneralName};

/// The middle of the certificates' life: tests that do not care what time it is begin here.
pub const NOW: i64 = 1_795_000_000;

const YEAR: i64 = 365 * 86_400;

/// A root, the issuing CA below it, and the directory in which everything lies.
pub struct Pki {
    directory: PathBuf,
    /// The root.
    pub root: Ca,
    /// Below it.
    pub issuing: Ca,
}

/// A certification authority.
pub struct Ca {
    /// Its certificate.
    pub certificate: X509,
    /// Its key.
    pub key: PKey<Private>,
}

/// What a revocation list says.
pub struct Revoked<'a> {
    /// Who, since when.
    pub certificates: &'a [(&'a X509, i64)],
    /// The list's number.
    pub number: u32,
    /// When it is made.
    pub this_update: i64,
    /// When the next one comes.
    pub next_update: i64,
    /// More extensions, such as its scope.
    pub extensions: &'a [X509Extension],
}

impl Revoked<'_> {
    /// A list of [`NOW`], good for a day, on which nobody stands.
    pub const NOBODY: Revoked<'static> = Revoked {
        certificates: &[],
        number: 1,
        this_update: NOW,
        next_update: NOW + 86_400,
        extensions: &[],
    };
}

impl Ca {
    /// A CA that nobody has vouched for.
    pub fn root(name: &str) -> Self {
        let key = new_key(2048);
        Self { certificate: certificate(name, None, &key, None, NOW - YEAR, NOW + 9 * YEAR, &[]), key }
    }

    /// A CA below this one, with these extensions besides the usual ones.
    pub fn below(&self, name: &str, extensions: &[X509Extension]) -> Self {
        let key = new_key(2048);
        Self {
            certificate: certificate(name, None, &key, Some(self), NOW - YEAR, NOW + 9 * YEAR, extensions),
            key,
        }
    }

    /// A provider's key and certificate, with these extensions besides the usual ones; the files lie in
    /// `directory`.
    pub fn provider(
        &self,
        directory: &Path,
        name: &str,
        address: &str,
        extensions: &[X509Extension],
    ) -> Keys {
        self.issue(directory, name, address, new_key(2048), NOW - YEAR, NOW + YEAR, extensions)
    }

    /// A certificate that has these extensions and no others but the identifiers of keys, and its key.
    pub fn leaf(&self, name: &str, extensions: &[X509Extension]) -> (X509, PKey<Private>) {
        let key = new_key(2048);
        let mut subject = X509NameBuilder::new().unwrap();
        subject.append_entry_by_text("CN", name).unwrap();
        let mut serial = BigNum::new().unwrap();
        serial.rand(120, MsbOption::ONE, false).unwrap();
        let mut builder = X509::builder().unwrap();
        builder.set_version(2).unwrap();
        builder.set_serial_number(&serial.to_asn1_integer().unwrap()).unwrap();
        builder.set_subject_name(&subject.build()).unwrap();
        builder.set_issuer_name(self.certificate.subject_name()).unwrap();
        builder.set_not_before(&Asn1Time::from_unix(NOW - YEAR).unwrap()).unwrap();
        builder.set_not_after(&Asn1Time::from_unix(NOW + 9 * YEAR).unwrap()).unwrap();
        builder.set_pubkey(&key).unwrap();
        let extension = SubjectKeyIdentifier::new()
            .build(&builder.x509v3_context(Some(&self.certificate), None))
            .unwrap();
        builder.append_extension(extension).unwrap();
        extensions.iter().for_each(|e| builder.append_extension2(e).unwrap());
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        (builder.build(), key)
    }

    /// A certificate of a web server with this key.
    pub fn server(&self, host: &str, key: &PKey<Private>) -> X509 {
        let mut subject = X509NameBuilder::new().unwrap();
        subject.append_entry_by_text("CN", host).unwrap();
        let mut builder = X509::builder().unwrap();
        builder.set_version(2).unwrap();
        builder.set_subject_name(&subject.build()).unwrap();
        builder.set_issuer_name(self.certificate.subject_name()).unwrap();
        builder.set_not_before(&Asn1Time::from_unix(NOW - YEAR).unwrap()).unwrap();
        builder.set_not_after(&Asn1Time::from_unix(NOW + 9 * YEAR).unwrap()).unwrap();
        builder.set_pubkey(key).unwrap();
        let extension = SubjectAlternativeName::new()
            .dns(host)
            .build(&builder.x509v3_context(Some(&self.certificate), None))
            .unwrap();
        builder.append_extension(extension).unwrap();
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        builder.build()
    }

    /// The list of what it has revoked, as DER.
    pub fn crl(&self, revoked: &Revoked) -> Vec<u8> {
        let mut builder = X509CrlBuilder::new().unwrap();
        builder.set_issuer_name(self.certificate.subject_name()).unwrap();
        builder.set_last_update(&Asn1Time::from_unix(revoked.this_update).unwrap()).unwrap();
        builder.set_next_update(&Asn1Time::from_unix(revoked.next_update).unwrap()).unwrap();
        // 2.5.29.35: the key identifier of the CA's certificate, which `subjectKeyIdentifier` has as an OCTET
        // STRING.
        let identifier = self.certificate.subject_key_id().unwrap().as_slice();
        let length = u8::try_from(identifier.len()).unwrap();
        builder
            .append_extension(extension(
                "2.5.29.35",
                false,
                &[&[0x30, length + 2, 0x80, length], identifier].concat(),
            ))
            .unwrap();
        builder.append_extension(extension("2.5.29.20", false, &revoked.number.to_der().unwrap())).unwrap();
        revoked.extensions.iter().for_each(|e| builder.append_extension2(e).unwrap());
        for (certificate, since) in revoked.certificates {
            let mut entry = X509RevokedBuilder::new().unwrap();
            entry.set_serial_number(certificate.serial_number()).unwrap();
            entry.set_revocation_date(&Asn1Time::from_unix(*since).unwrap()).unwrap();
            builder.add_revoked(entry.build()).unwrap();
        }
        builder.sort().unwrap();
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        builder.build().unwrap().to_der().unwrap()
    }

    #[allow(clippy::too_many_arguments)]
    fn issue(
        &self,
        directory: &Path,
        name: &str,
        address: &str,
        key: PKey<Private>,
        from: i64,
        to: i64,
        extensions: &[X509Extension],
    ) -> Keys {
        let certificate = certificate(name, Some(address), &key, Some(self), from, to, extensions);
        // A provider has several, while one replaces another.
        let sha1 = hex(&certificate.digest(MessageDigest::sha1()).unwrap());
        let keys = Keys {
            certificate_file: directory.join(format!("{name} {sha1}.pem")),
            key_file: directory.join(format!("{name} {sha1}.key")),
            sha1,
            name: name.to_owned(),
        };
        fs::write(
            &keys.certificate_file,
            [certificate.to_pem().unwrap(), self.certificate.to_pem().unwrap()].concat(),
        )
        .unwrap();
        fs::write(&keys.key_file, key.private_key_to_pem_pkcs8().unwrap()).unwrap();
        fs::set_permissions(&keys.key_file, fs::Permissions::from_mode(0o600)).unwrap();
        keys
    }
}

/// An extension of any kind.
pub fn extension(oid: &str, critical: bool, der: &[u8]) -> X509Extension {
    X509Extension::new_from_der(
        &Asn1Object::from_str(oid).unwrap(),
        critical,
        &Asn1OctetString::new_from_bytes(der).unwrap(),
    )
    .unwrap()
}

/// Where the CRL is that speaks of a certificate: one place under several addresses.
pub fn crl_at(urls: &[&str]) -> X509Extension {
    let uri = |url: &&str| GeneralName::UniformResourceIdentifier(Ia5String::new(url).unwrap());
    let point = DistributionPoint {
        distribution_point: Some(DistributionPointName::FullName(urls.iter().map(uri).collect())),
        reasons: None,
        crl_issuer: None,
    };
    extension("2.5.29.31", false, &vec![point].to_der().unwrap())
}

/// Constraints as the Italian CA has them: addresses of one domain, subjects of one country and organisation.
pub fn only_for(domain: &str, organisation: &str) -> X509Extension {
    let subtree = |base| GeneralSubtree { base, minimum: 0, maximum: None };
    let name = format!("O={organisation},C=IT").parse().unwrap();
    let constraints = NameConstraints {
        permitted_subtrees: Some(vec![
            subtree(GeneralName::Rfc822Name(Ia5String::new(domain).unwrap())),
            subtree(GeneralName::DirectoryName(name)),
        ]),
        excluded_subtrees: None,
    };
    extension("2.5.29.30", true, &constraints.to_der().unwrap())
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
    /// The certificate.
    pub fn certificate(&self) -> X509 {
        X509::from_pem(&fs::read(&self.certificate_file).unwrap()).unwrap()
    }

    /// Certificate and key, as the milters read them at `now`.
    pub fn signer(&self, address: &str, now: i64) -> Result<PemSigner, KeyError> {
        read::signer(
            read::certificate(&self.certificate_file, address, &self.name, Moment::from_unix(now))?,
            &self.key_file,
        )
    }
}

impl Pki {
    /// Makes the CAs below `directory`.
    pub fn new(directory: &Path) -> Self {
        let root = Ca::root("Prova Root CA");
        let issuing = root.below("Prova CA 1", &[]);
        let pki = Self { directory: directory.to_owned(), root, issuing };
        fs::write(pki.ca_file(), pki.root.certificate.to_pem().unwrap()).unwrap();
        fs::write(pki.auditor_file(), pki.issuing.certificate.to_pem().unwrap()).unwrap();
        pki
    }

    /// The root, as `pec_ca_file`.
    pub fn ca_file(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// The auditor's certificate, as `pec_infected_certificate_file`: the issuing CA stands in for him.
    pub fn auditor_file(&self) -> PathBuf {
        self.directory.join("auditor.pem")
    }

    /// The auditor's key, in a file.
    pub fn auditor_key_file(&self) -> PathBuf {
        let file = self.directory.join("auditor.key");
        fs::write(&file, self.issuing.key.private_key_to_pem_pkcs8().unwrap()).unwrap();
        file
    }

    /// What the auditor reads in what was encrypted for him.
    pub fn opened(&self, encrypted: &[u8]) -> Vec<u8> {
        CmsContentInfo::from_der(encrypted)
            .unwrap()
            .decrypt(&self.issuing.key, &self.issuing.certificate)
            .unwrap()
    }

    /// The issuing CA, for certificates of other kinds.
    pub fn issuing(&self) -> (&X509, &PKey<Private>) {
        (&self.issuing.certificate, &self.issuing.key)
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
        self.issuing.issue(&self.directory, name, address, key, from, to, &[])
    }
}

/// A key that this process has not had yet. Making one takes longer than most tests: the first, the second
/// ... of every process are the same, kept below target/.
pub fn new_key(bits: u32) -> PKey<Private> {
    static HAD: AtomicUsize = AtomicUsize::new(0);
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/test-keys");
    let file = directory.join(format!("{bits}-{}.pem", HAD.fetch_add(1, Ordering::Relaxed)));
    if let Ok(pem) = fs::read(&file) {
        return PKey::private_key_from_pem(&pem).unwrap();
    }
    let key = PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap();
    fs::create_dir_all(&directory).unwrap();
    // Whole or not at all, as others run beside this one.
    let new = file.with_extension(std::process::id().to_string());
    fs::write(&new, key.private_key_to_pem_pkcs8().unwrap()).unwrap();
    fs::rename(&new, &file).unwrap();
    key
}

/// A CA's certificate, or, with an address, a provider's.
fn certificate(
    name: &str,
    address: Option<&str>,
    key: &PKey<Private>,
    issuer: Option<&Ca>,
    from: i64,
    to: i64,
    extensions: &[X509Extension],
) -> X509 {
    let (issuer, issuer_key) = (issuer.map(|ca| &*ca.certificate), issuer.map(|ca| &ca.key));
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
    builder.set_issuer_name(issuer.map_or(&*subject, |i| i.subject_name())).unwrap();
    builder.set_not_before(&Asn1Time::from_unix(from).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::from_unix(to).unwrap()).unwrap();
    builder.set_pubkey(key).unwrap();
    let extension = SubjectKeyIdentifier::new().build(&builder.x509v3_context(issuer, None)).unwrap();
    builder.append_extension(extension).unwrap();
    if issuer.is_some() {
        let extension =
            AuthorityKeyIdentifier::new().keyid(true).build(&builder.x509v3_context(issuer, None)).unwrap();
        builder.append_extension(extension).unwrap();
    }
    match address {
        Some(address) => {
            builder
                .append_extension(KeyUsage::new().critical().digital_signature().build().unwrap())
                .unwrap();
            let extension = SubjectAlternativeName::new()
                .email(address)
                .build(&builder.x509v3_context(issuer, None))
                .unwrap();
            builder.append_extension(extension).unwrap();
        }
        None => {
            builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
            builder
                .append_extension(KeyUsage::new().critical().key_cert_sign().crl_sign().build().unwrap())
                .unwrap();
        }
    }
    extensions.iter().for_each(|e| builder.append_extension2(e).unwrap());
    builder.sign(issuer_key.unwrap_or(key), MessageDigest::sha256()).unwrap();
    builder.build()
}
