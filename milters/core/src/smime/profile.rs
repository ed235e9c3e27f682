//! The profile of a provider's certificate: RFC 6109 s. 5.5.
//!
//! No S/MIME program enforces it, so nobody else would say so if the CA had made a mistake.

use std::collections::HashSet;

use const_oid::ObjectIdentifier;
use const_oid::db::rfc5280::{
    ID_CE_AUTHORITY_KEY_IDENTIFIER, ID_CE_BASIC_CONSTRAINTS, ID_CE_KEY_USAGE, ID_CE_SUBJECT_ALT_NAME,
    ID_CE_SUBJECT_KEY_IDENTIFIER,
};
use der::Decode;
use openssl::nid::Nid;
use openssl::x509::X509Ref;
use x509_cert::Certificate;
use x509_cert::certificate::Version;
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{AuthorityKeyIdentifier, KeyUsage, SubjectAltName, SubjectKeyIdentifier};

/// Every rule that the certificate breaks, each in a few words; none if it follows the profile.
/// `provider_name` is the directory's `providerName`.
pub fn breaches(certificate: &X509Ref, provider_name: &str) -> Result<Vec<String>, String> {
    let der = certificate.to_der().map_err(|e| e.to_string())?;
    let parsed = Certificate::from_der(&der).map_err(|e| format!("the certificate cannot be read: {e}"))?;
    let extensions = parsed.tbs_certificate.extensions.as_deref().unwrap_or_default();
    let mut breaches = Vec::new();
    if parsed.tbs_certificate.version != Version::V3 {
        breaches.push("it is not of version 3".to_owned());
    }
    breaches.extend(of_subject(certificate, provider_name));
    breaches.extend(of_key_usage(extensions));
    breaches.extend(of_identifiers(extensions));
    breaches.extend(of_others(extensions));
    Ok(breaches)
}

/// Section 5.5.1.
fn of_subject(certificate: &X509Ref, provider_name: &str) -> Vec<String> {
    let subject = certificate.subject_name();
    let mut breaches = Vec::new();
    let names: Vec<String> = [Nid::COMMONNAME, Nid::ORGANIZATIONNAME]
        .into_iter()
        .flat_map(|nid| subject.entries_by_nid(nid))
        .filter_map(|entry| entry.data().to_string().ok())
        .collect();
    if !names.iter().any(|name| name == provider_name) {
        let names = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
        breaches.push(format!(
            "neither CN nor O of its subject is the provider's name ({provider_name}), but {names}"
        ));
    }
    if subject.entries_by_nid(Nid::PKCS9_EMAILADDRESS).next().is_some() {
        breaches.push("its subject holds an e-mail address".to_owned());
    }
    breaches
}

fn extension(extensions: &[Extension], oid: ObjectIdentifier) -> Option<&Extension> {
    extensions.iter().find(|e| e.extn_id == oid)
}

fn decoded<'a, T: Decode<'a>>(extension: &'a Extension) -> Option<T> {
    T::from_der(extension.extn_value.as_bytes()).ok()
}

/// Section 5.5.2, Key Usage.
fn of_key_usage(extensions: &[Extension]) -> Vec<String> {
    let Some(extension) = extension(extensions, ID_CE_KEY_USAGE) else {
        return vec!["keyUsage is missing".to_owned()];
    };
    let mut breaches = Vec::new();
    if !extension.critical {
        breaches.push("keyUsage is not critical".to_owned());
    }
    let usage = decoded::<KeyUsage>(extension);
    if !usage.is_some_and(|usage| usage.digital_signature()) {
        breaches.push("keyUsage lacks digitalSignature".to_owned());
    }
    // RFC 5280 s. 4.2.1.3 wants basicConstraints with it, which must not be there.
    if usage.is_some_and(|usage| usage.key_cert_sign()) {
        breaches.push("keyUsage has keyCertSign".to_owned());
    }
    breaches
}

/// Section 5.5.2, the extensions that must be there and not be critical.
fn of_identifiers(extensions: &[Extension]) -> Vec<String> {
    let authority =
        |e: &Extension| decoded::<AuthorityKeyIdentifier>(e).is_some_and(|id| id.key_identifier.is_some());
    let subject =
        |e: &Extension| decoded::<SubjectKeyIdentifier>(e).is_some_and(|id| !id.0.as_bytes().is_empty());
    let is_address = |name: &GeneralName| matches!(name, GeneralName::Rfc822Name(_));
    let address =
        |e: &Extension| decoded::<SubjectAltName>(e).is_some_and(|names| names.0.iter().any(is_address));
    [
        of_identifier(
            extension(extensions, ID_CE_AUTHORITY_KEY_IDENTIFIER),
            "authorityKeyIdentifier",
            "keyIdentifier",
            authority,
        ),
        of_identifier(
            extension(extensions, ID_CE_SUBJECT_KEY_IDENTIFIER),
            "subjectKeyIdentifier",
            "keyIdentifier",
            subject,
        ),
        of_identifier(extension(extensions, ID_CE_SUBJECT_ALT_NAME), "subjectAltName", "rfc822Name", address),
    ]
    .concat()
}

fn of_identifier(
    extension: Option<&Extension>,
    name: &str,
    must_hold: &str,
    holds: impl Fn(&Extension) -> bool,
) -> Vec<String> {
    let Some(extension) = extension else { return vec![format!("{name} is missing")] };
    let mut breaches = Vec::new();
    if !holds(extension) {
        breaches.push(format!("{name} has no {must_hold}"));
    }
    if extension.critical {
        breaches.push(format!("{name} is critical"));
    }
    breaches
}

/// Section 5.5.2, what else may be there.
fn of_others(extensions: &[Extension]) -> Vec<String> {
    let judged = [
        ID_CE_KEY_USAGE,
        ID_CE_AUTHORITY_KEY_IDENTIFIER,
        ID_CE_SUBJECT_KEY_IDENTIFIER,
        ID_CE_SUBJECT_ALT_NAME,
    ];
    let mut breaches = Vec::new();
    let mut seen = HashSet::new();
    for extension in extensions {
        let oid = extension.extn_id;
        if !seen.insert(oid) {
            breaches.push(format!("the extension {oid} stands there twice"));
        }
        if oid == ID_CE_BASIC_CONSTRAINTS {
            breaches.push("basicConstraints is there".to_owned());
        }
        if extension.critical && !judged.contains(&oid) {
            breaches.push(format!("the extension {oid} is critical"));
        }
    }
    breaches
}
