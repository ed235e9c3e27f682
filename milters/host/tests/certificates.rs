//! What our own certificate must be (RFC 6109 s. 5.5): certificates of the openssl command, each with one
//! thing wrong.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::Command;

use der::{Decode as _, Encode as _};
use openssl::x509::X509;
use pec_core::clock::{Clock as _, Moment, SystemClock};
use pec_core::smime::own::OwnCertificate;
use pec_core::smime::pem::sign;
use pec_core::smime::profile::breaches;
use pec_core::smime::request::{Subject, request};
use pec_host::read;
use pec_host::read::private_key;
use pec_test_support::pki::{NOW, Pki};
use tempfile::TempDir;
use x509_cert::certificate::{Certificate, TbsCertificate, Version};

const NAME: &str = "Alfa PEC S.p.A.";
const ADDRESS: &str = "posta-certificata@gestore.alfa.test";
const SUBJECT: &str = "/C=IT/O=Alfa PEC S.p.A./CN=Posta Certificata";
const KEY_USAGE: &str = "keyUsage=critical,digitalSignature";
const SUBJECT_KEY: &str = "subjectKeyIdentifier=hash";
const AUTHORITY_KEY: &str = "authorityKeyIdentifier=keyid:always";
const ALT_NAME: &str = "subjectAltName=email:posta-certificata@gestore.alfa.test";
const MINIMAL: [&str; 4] = [KEY_USAGE, SUBJECT_KEY, AUTHORITY_KEY, ALT_NAME];

/// A CA that signs whatever it is asked for.
struct Ca {
    directory: TempDir,
}

impl Ca {
    fn new() -> Self {
        let ca = Self { directory: tempfile::tempdir().unwrap() };
        ca.openssl("req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=CA -keyout ca.key -out ca.pem");
        ca.openssl("genrsa -out provider.key 2048");
        ca
    }

    fn openssl(&self, arguments: &str) {
        self.run(&arguments.split(' ').collect::<Vec<_>>());
    }

    fn run(&self, arguments: &[&str]) {
        let output =
            Command::new("openssl").args(arguments).current_dir(self.directory.path()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn certificate(&self, subject: &str, extensions: &[&str]) -> X509 {
        fs::write(self.directory.path().join("extensions"), extensions.join("\n")).unwrap();
        self.run(&["req", "-new", "-utf8", "-key", "provider.key", "-subj", subject, "-out", "request.pem"]);
        self.openssl(
            "x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile \
            extensions -out certificate.pem",
        );
        X509::from_pem(&fs::read(self.directory.path().join("certificate.pem")).unwrap()).unwrap()
    }
}

impl Ca {
    /// The rules that the certificate breaks, which is none to start with: the error is one line with all of
    /// them.
    fn refused(&self, certificate: &X509) -> Vec<String> {
        let breaches = breaches(certificate, NAME).unwrap();
        let error = self.read(certificate).unwrap_err();
        let file = self.directory.path().join("own.pem");
        let begin = format!(
            "pec_certificate_file = {}: the certificate breaks the profile of RFC 6109 s. 5.5 for \
            pec_provider_name = {NAME}: ",
            file.display()
        );
        assert_eq!(error, begin + &breaches.join("; "));
        breaches
    }

    /// As the programs read it at their start.
    fn read(&self, certificate: &X509) -> Result<OwnCertificate, String> {
        let file = self.directory.path().join("own.pem");
        fs::write(&file, certificate.to_pem().unwrap()).unwrap();
        read::certificate(&file, ADDRESS, NAME, SystemClock.now()).map_err(|e| e.to_string())
    }
}

fn with(extension: &'static str) -> Vec<&'static str> {
    [&MINIMAL[..], &[extension]].concat()
}

fn instead(of: &str, extension: &'static str) -> Vec<&'static str> {
    MINIMAL.iter().map(|e| if *e == of { extension } else { e }).collect()
}

fn without(extension: &str) -> Vec<&'static str> {
    MINIMAL.into_iter().filter(|e| *e != extension).collect()
}

/// A certificate whose signature no longer matters.
fn edited(certificate: &X509, edit: impl FnOnce(&mut TbsCertificate)) -> X509 {
    let mut parsed = Certificate::from_der(&certificate.to_der().unwrap()).unwrap();
    edit(&mut parsed.tbs_certificate);
    X509::from_der(&parsed.to_der().unwrap()).unwrap()
}

#[test]
fn rfc6109_5_5_certificates_of_the_profile_pass() {
    let ca = Ca::new();
    for (subject, extensions) in [
        (SUBJECT, MINIMAL.to_vec()),
        ("/C=IT/O=Alfa/CN=Alfa PEC S.p.A.", MINIMAL.to_vec()),
        (SUBJECT, with("extendedKeyUsage=emailProtection")),
        (SUBJECT, with("crlDistributionPoints=URI:http://ca.test/crl")),
        (SUBJECT, with("certificatePolicies=1.3.76.16.3.1.1")),
        (SUBJECT, instead(KEY_USAGE, "keyUsage=critical,digitalSignature,nonRepudiation")),
        (
            SUBJECT,
            instead(
                ALT_NAME,
                "subjectAltName=DNS:gestore.alfa.test,email:posta-certificata@gestore.alfa.test",
            ),
        ),
        (
            "/C=IT/ST=Ancona/L=Senigallia/O=Alfa PEC S.p.A./organizationIdentifier=VATIT-0/CN=Posta",
            MINIMAL.to_vec(),
        ),
    ] {
        let certificate = ca.certificate(subject, &extensions);
        assert_eq!(breaches(&certificate, NAME).unwrap(), Vec::<String>::new(), "{subject} {extensions:?}");
        ca.read(&certificate).unwrap();
    }
}

#[test]
fn our_key_is_rsa_of_2048_to_4096_bits_and_no_request_is_made_for_another() {
    let ca = Ca::new();
    let subject = Subject {
        provider_name: NAME,
        state: None,
        locality: None,
        common_name: "Posta Certificata",
        address: ADDRESS,
    };
    // Large ones of more than two primes, which are found sooner.
    for (kind, says) in [
        ("RSA -pkeyopt rsa_keygen_bits:1024", Some("has 1024 bits; RSA of 2048 to 4096 bits is needed")),
        ("RSA -pkeyopt rsa_keygen_bits:2040", Some("has 2040 bits; RSA of 2048 to 4096 bits is needed")),
        ("RSA -pkeyopt rsa_keygen_bits:2048", None),
        ("RSA -pkeyopt rsa_keygen_bits:4096 -pkeyopt rsa_keygen_primes:4", None),
        (
            "RSA -pkeyopt rsa_keygen_bits:4104 -pkeyopt rsa_keygen_primes:4",
            Some("has 4104 bits; RSA of 2048 to 4096 bits is needed"),
        ),
        (
            "RSA -pkeyopt rsa_keygen_bits:8192 -pkeyopt rsa_keygen_primes:5",
            Some("has 8192 bits; RSA of 2048 to 4096 bits is needed"),
        ),
        ("EC -pkeyopt ec_paramgen_curve:P-256", Some("is not RSA; RSA of 2048 to 4096 bits is needed")),
    ] {
        ca.openssl(&format!("genpkey -quiet -out provider.key -algorithm {kind}"));
        let certificate = ca.certificate(SUBJECT, &MINIMAL);
        let key = private_key(&ca.directory.path().join("provider.key")).unwrap();
        let requested = request(&subject, &certificate.public_key().unwrap(), |data| sign(&key, data));
        match says {
            None => drop((ca.read(&certificate).unwrap(), requested.unwrap())),
            Some(says) => {
                let error = ca.read(&certificate).unwrap_err();
                assert!(
                    error.starts_with("pec_certificate_file = ")
                        && error.ends_with(&format!(": the certificate's key {says}")),
                    "{error}"
                );
                assert!(requested.unwrap_err().to_string().ends_with(&format!("the key {says}")));
            }
        }
    }
}

#[test]
fn our_certificate_is_for_the_address_that_everything_comes_from() {
    let ca = Ca::new();
    let other = instead(ALT_NAME, "subjectAltName=email:posta-certificata@gestore.beta.test");
    let error = ca.read(&ca.certificate(SUBJECT, &other)).unwrap_err();
    assert!(
        error.ends_with(
            "the certificate is for posta-certificata@gestore.beta.test; \
        posta-certificata@gestore.alfa.test is needed"
        ),
        "{error}"
    );
}

#[test]
fn rfc6109_5_5_each_rule_that_is_broken_is_named() {
    let ca = Ca::new();
    for (subject, extensions, says) in [
        (
            "/C=IT/O=Altra/CN=Posta Certificata",
            MINIMAL.to_vec(),
            "neither CN nor O of its subject is the provider's name (Alfa PEC S.p.A.), but Posta \
            Certificata, Altra",
        ),
        (
            "/C=IT/O=alfa pec s.p.a./CN=x",
            MINIMAL.to_vec(),
            "neither CN nor O of its subject is the provider's name (Alfa PEC S.p.A.), but x, alfa pec \
            s.p.a.",
        ),
        (
            "/C=IT/O=Alfa PEC S.p.A./emailAddress=a@alfa.test",
            MINIMAL.to_vec(),
            "its subject holds an e-mail address",
        ),
        (SUBJECT, without(KEY_USAGE), "keyUsage is missing"),
        (SUBJECT, instead(KEY_USAGE, "keyUsage=digitalSignature"), "keyUsage is not critical"),
        (SUBJECT, instead(KEY_USAGE, "keyUsage=critical,keyEncipherment"), "keyUsage lacks digitalSignature"),
        (
            SUBJECT,
            instead(KEY_USAGE, "keyUsage=critical,digitalSignature,keyCertSign"),
            "keyUsage has keyCertSign",
        ),
        (
            SUBJECT,
            instead(AUTHORITY_KEY, "authorityKeyIdentifier=issuer:always"),
            "authorityKeyIdentifier has no keyIdentifier",
        ),
        (
            SUBJECT,
            instead(SUBJECT_KEY, "subjectKeyIdentifier=critical,hash"),
            "subjectKeyIdentifier is critical",
        ),
        (SUBJECT, without(ALT_NAME), "subjectAltName is missing"),
        (
            SUBJECT,
            instead(ALT_NAME, "subjectAltName=DNS:gestore.alfa.test"),
            "subjectAltName has no rfc822Name",
        ),
        (
            SUBJECT,
            instead(ALT_NAME, "subjectAltName=critical,email:posta-certificata@gestore.alfa.test"),
            "subjectAltName is critical",
        ),
        (SUBJECT, with("basicConstraints=CA:FALSE"), "basicConstraints is there"),
        (SUBJECT, with("extendedKeyUsage=critical,emailProtection"), "the extension 2.5.29.37 is critical"),
    ] {
        assert_eq!(ca.refused(&ca.certificate(subject, &extensions)), [says]);
    }
    // Newer versions of the command will not make these.
    let good = ca.certificate(SUBJECT, &MINIMAL);
    let without = |oid: &str| {
        edited(&good, |c| c.extensions.as_mut().unwrap().retain(|e| e.extn_id.to_string() != oid))
    };
    let twice = |c: &mut TbsCertificate| c.extensions.as_mut().unwrap().extend_from_within(..1);
    for (certificate, says) in [
        (without("2.5.29.35"), "authorityKeyIdentifier is missing"),
        (without("2.5.29.14"), "subjectKeyIdentifier is missing"),
        (edited(&good, twice), "the extension 2.5.29.15 stands there twice"),
        (edited(&good, |c| c.version = Version::V2), "it is not of version 3"),
    ] {
        assert_eq!(ca.refused(&certificate), [says]);
    }
    let several = ca.refused(&ca.certificate("/CN=x", &with("basicConstraints=critical,CA:TRUE")));
    assert_eq!(several.len(), 3, "all of them: {several:?}");
}

#[test]
fn rfc6109_5_5_our_own_certificate_is_refused_by_rule_and_looked_at_in_time() {
    let directory = tempfile::tempdir().unwrap();
    let pki = Pki::new(directory.path());
    let day = 86_400;
    let keys = pki.provider_valid(NAME, ADDRESS, NOW - day, NOW + 365 * day);
    let read =
        |file: &Path, name: &str, now: i64| read::certificate(file, ADDRESS, name, Moment::from_unix(now));
    let error = read(&keys.certificate_file, "Beta Posta S.r.l.", NOW).unwrap_err().to_string();
    assert!(
        error.starts_with("pec_certificate_file = ")
            && error.contains(
                "breaks the profile of RFC 6109 s. 5.5 for pec_provider_name = Beta Posta \
                S.r.l.: neither CN nor O"
            ),
        "{error}"
    );
    for (now, left) in [
        (NOW, None),
        (NOW + 305 * day, None),
        (NOW + 305 * day + 1, Some(59)),
        (NOW + 365 * day - 1, Some(0)),
        (NOW + 365 * day, Some(0)),
    ] {
        let certificate = read(&keys.certificate_file, NAME, now).unwrap();
        assert_eq!(certificate.ends_soon(Moment::from_unix(now)), left);
        assert_eq!(certificate.identity().not_after.unix(), NOW + 365 * day);
    }
    for (now, says) in [(NOW + 365 * day + 1, "has expired on"), (NOW - day - 1, "is not valid before")] {
        let error = read(&keys.certificate_file, NAME, now).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}
