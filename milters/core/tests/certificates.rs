//! What our own certificate must be (RFC 6109 s. 5.5): certificates of the openssl command, each with one thing wrong.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::Command;

use der::{Decode as _, Encode as _};
use openssl::x509::X509;
use pec_core::clock::Moment;
use pec_core::smime::own::OwnCertificate;
use pec_core::smime::profile::breaches;
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
        let output = Command::new("openssl").args(arguments).current_dir(self.directory.path()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn certificate(&self, subject: &str, extensions: &[&str]) -> X509 {
        fs::write(self.directory.path().join("extensions"), extensions.join("\n")).unwrap();
        self.run(&["req", "-new", "-utf8", "-key", "provider.key", "-subj", subject, "-out", "request.pem"]);
        self.openssl("x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile extensions -out certificate.pem");
        X509::from_pem(&fs::read(self.directory.path().join("certificate.pem")).unwrap()).unwrap()
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
        (SUBJECT, instead(ALT_NAME, "subjectAltName=DNS:gestore.alfa.test,email:posta-certificata@gestore.alfa.test")),
        ("/C=IT/ST=Ancona/L=Senigallia/O=Alfa PEC S.p.A./organizationIdentifier=VATIT-0/CN=Posta", MINIMAL.to_vec()),
    ] {
        assert_eq!(breaches(&ca.certificate(subject, &extensions), NAME).unwrap(), Vec::<String>::new(), "{subject} {extensions:?}");
    }
}

#[test]
fn rfc6109_5_5_each_rule_that_is_broken_is_named() {
    let ca = Ca::new();
    for (subject, extensions, says) in [
        (
            "/C=IT/O=Altra/CN=Posta Certificata",
            MINIMAL.to_vec(),
            "neither CN nor O of its subject is pec_provider_name (Alfa PEC S.p.A.), but Posta Certificata, Altra",
        ),
        (
            "/C=IT/O=alfa pec s.p.a./CN=x",
            MINIMAL.to_vec(),
            "neither CN nor O of its subject is pec_provider_name (Alfa PEC S.p.A.), but x, alfa pec s.p.a.",
        ),
        ("/C=IT/O=Alfa PEC S.p.A./emailAddress=a@alfa.test", MINIMAL.to_vec(), "its subject holds an e-mail address"),
        (SUBJECT, without(KEY_USAGE), "keyUsage is missing"),
        (SUBJECT, instead(KEY_USAGE, "keyUsage=digitalSignature"), "keyUsage is not critical"),
        (SUBJECT, instead(KEY_USAGE, "keyUsage=critical,keyEncipherment"), "keyUsage lacks digitalSignature"),
        (SUBJECT, instead(KEY_USAGE, "keyUsage=critical,digitalSignature,keyCertSign"), "keyUsage has keyCertSign"),
        (SUBJECT, instead(AUTHORITY_KEY, "authorityKeyIdentifier=issuer:always"), "authorityKeyIdentifier has no keyIdentifier"),
        (SUBJECT, instead(SUBJECT_KEY, "subjectKeyIdentifier=critical,hash"), "subjectKeyIdentifier is critical"),
        (SUBJECT, without(ALT_NAME), "subjectAltName is missing"),
        (SUBJECT, instead(ALT_NAME, "subjectAltName=DNS:gestore.alfa.test"), "subjectAltName has no rfc822Name"),
        (SUBJECT, instead(ALT_NAME, "subjectAltName=critical,email:posta-certificata@gestore.alfa.test"), "subjectAltName is critical"),
        (SUBJECT, with("basicConstraints=CA:FALSE"), "basicConstraints is there"),
        (SUBJECT, with("extendedKeyUsage=critical,emailProtection"), "the extension 2.5.29.37 is critical"),
    ] {
        assert_eq!(breaches(&ca.certificate(subject, &extensions), NAME).unwrap(), [says]);
    }
    // Newer versions of the command will not make these.
    let good = ca.certificate(SUBJECT, &MINIMAL);
    let without = |oid: &str| edited(&good, |c| c.extensions.as_mut().unwrap().retain(|e| e.extn_id.to_string() != oid));
    let twice = |c: &mut TbsCertificate| c.extensions.as_mut().unwrap().extend_from_within(..1);
    for (certificate, says) in [
        (without("2.5.29.35"), "authorityKeyIdentifier is missing"),
        (without("2.5.29.14"), "subjectKeyIdentifier is missing"),
        (edited(&good, twice), "the extension 2.5.29.15 stands there twice"),
        (edited(&good, |c| c.version = Version::V2), "it is not of version 3"),
    ] {
        assert_eq!(breaches(&certificate, NAME).unwrap(), [says]);
    }
    let several = breaches(&ca.certificate("/CN=x", &with("basicConstraints=critical,CA:TRUE")), NAME).unwrap();
    assert_eq!(several.len(), 3, "all of them: {several:?}");
}

#[test]
fn rfc6109_5_5_our_own_certificate_is_refused_by_rule_and_looked_at_in_time() {
    let directory = tempfile::tempdir().unwrap();
    let pki = Pki::new(directory.path());
    let day = 86_400;
    let keys = pki.provider_valid(NAME, ADDRESS, NOW - day, NOW + 365 * day);
    let read = |file: &Path, name: &str, now: i64| OwnCertificate::read(file, ADDRESS, name, Moment::from_unix(now));
    let error = read(&keys.certificate_file, "Beta Posta S.r.l.", NOW).unwrap_err().to_string();
    assert!(error.starts_with("pec_certificate_file = ") && error.contains("breaks the profile of RFC 6109 s. 5.5: neither CN nor O"), "{error}");
    for (now, left) in
        [(NOW, None), (NOW + 305 * day, None), (NOW + 305 * day + 1, Some(59)), (NOW + 365 * day - 1, Some(0)), (NOW + 365 * day, Some(0))]
    {
        let certificate = read(&keys.certificate_file, NAME, now).unwrap();
        assert_eq!(certificate.ends_soon(Moment::from_unix(now)), left);
        assert_eq!(certificate.identity().not_after.unix(), NOW + 365 * day);
    }
    for (now, says) in [(NOW + 365 * day + 1, "has expired on"), (NOW - day - 1, "is not valid before")] {
        let error = read(&keys.certificate_file, NAME, now).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}
