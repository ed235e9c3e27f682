//! Timestamps by an authority that is not ours (RFC 3161): they say that something existed by then.
//!
//! Promise: a timestamp that comes out of here, fetched or read from a file, was made over exactly these
//! bytes by a TSA for which `pec_tsa_ca_file` vouches as of the time that it states; one that was fetched
//! answers our own question besides. It is kept as it came (`.tsr`, the whole TimeStampResp), so that
//! `openssl ts -verify` reads it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use der::asn1::{AnyRef, ObjectIdentifier};
use der::{Decode as _, Encode as _, Reader as _, SliceReader, Tag, TagNumber, Tagged as _};
use openssl::hash::{MessageDigest, hash};
use openssl::pkcs7::{Pkcs7, Pkcs7Flags};
use openssl::rand::rand_bytes;
use openssl::sha::sha256;
use openssl::stack::{Stack, StackRef};
use openssl::x509::store::{X509Store, X509StoreBuilder};
use openssl::x509::verify::{X509VerifyFlags, X509VerifyParam};
use openssl::x509::{X509, X509PurposeId, X509Ref, X509StoreContext};
use pec_core::clock::Moment;
use pec_core::smime::{certificates_from_pem, common_name};
use pec_host::parameters::Timestamps;
use ureq::tls::{RootCerts, TlsConfig, TlsProvider};

/// How long a TSA may take, from the connection to the last byte.
const PATIENCE: Duration = Duration::from_secs(20);

/// More bytes than a timestamp with its certificates has.
const LARGEST: u64 = 256 * 1024;

const SHA_256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
/// `id-ct-TSTInfo`.
const TST_INFO: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.1.4");
/// `id-aa-signingCertificate` (RFC 2634).
const SIGNING_CERTIFICATE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.2.12");
/// `id-aa-signingCertificateV2` (RFC 5035).
const SIGNING_CERTIFICATE_V2: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.2.47");

/// No timestamp, or none that is believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TsaError {
    /// The TSA does not answer.
    #[error("the TSA {url} does not answer: {trouble}")]
    Away {
        /// `pec_tsa_url`.
        url: String,
        /// Why.
        trouble: String,
    },
    /// It answers that it gives none.
    #[error("the TSA gives no timestamp: {0}")]
    Refused(String),
    /// What came is no timestamp, is over something else, or nobody vouches for it.
    #[error("the timestamp is not good: {0}")]
    Bad(String),
}

/// The parameter's file does not do.
#[derive(Debug, thiserror::Error)]
#[error("pec_tsa_ca_file = {path}: {trouble}")]
pub struct TsaCaError {
    path: String,
    trouble: String,
}

/// A timestamp that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timestamp {
    /// The time that it states, in whole seconds.
    pub at: Moment,
    /// The common name in the TSA's certificate.
    pub by: String,
}

/// The CAs that may vouch for TSAs.
pub struct TsaCas(Vec<X509>);

impl TsaCas {
    /// Reads a PEM file.
    pub fn read(file: &Path) -> Result<Self, TsaCaError> {
        let read = fs::read(file).map_err(|e| e.to_string()).and_then(|pem| certificates_from_pem(&pem));
        read.map(Self).map_err(|trouble| TsaCaError { path: file.display().to_string(), trouble })
    }

    /// These.
    pub fn of(certificates: Vec<X509>) -> Self {
        Self(certificates)
    }

    /// Which.
    pub fn certificates(&self) -> &[X509] {
        &self.0
    }

    /// Checks a stored `.tsr` over `content`. Needs no connection.
    pub fn verify(&self, content: &[u8], response: &[u8]) -> Result<Timestamp, TsaError> {
        self.check(&sha256(content), response, None)
    }

    fn check(&self, digest: &[u8; 32], response: &[u8], nonce: Option<&[u8]>) -> Result<Timestamp, TsaError> {
        let form = |_| TsaError::Bad("it is no TimeStampResp".to_owned());
        let parts = inside(AnyRef::from_der(response).map_err(form)?).map_err(form)?;
        let status =
            inside(*parts.first().ok_or_else(|| TsaError::Bad("it is no TimeStampResp".to_owned()))?)
                .map_err(form)?;
        // granted, grantedWithMods.
        let granted = status.first().is_some_and(|n| n.tag() == Tag::Integer && matches!(n.value(), [0 | 1]));
        let Some(token) = parts.get(1).filter(|_| granted) else {
            let words = status.get(1).and_then(|texts| inside(*texts).ok()).unwrap_or_default();
            let words: Vec<_> =
                words.iter().map(|text| String::from_utf8_lossy(text.value()).into_owned()).collect();
            let number =
                status.first().and_then(|n| n.value().last()).map_or_else(String::new, ToString::to_string);
            return Err(TsaError::Refused(
                format!("status {number} {}", words.join(", ")).trim_end().to_owned(),
            ));
        };
        let token = token.to_der().map_err(form)?;
        let (info, signer) = self.signed(&token)?;
        let info =
            Info::read(&info).map_err(|_| TsaError::Bad("it has no TSTInfo that can be read".to_owned()))?;
        if info.algorithm != SHA_256 || info.imprint != digest {
            return Err(TsaError::Bad("it is over other bytes".to_owned()));
        }
        if let Some(nonce) = nonce
            && info.nonce.as_deref() != Some(nonce)
        {
            return Err(TsaError::Bad("it answers another question than ours (nonce)".to_owned()));
        }
        let along = Pkcs7::from_der(&token).map_err(openssl_says)?;
        let none = Stack::new().map_err(openssl_says)?;
        self.vouched_for(
            &signer,
            along.signed().and_then(|signed| signed.certificates()).unwrap_or(&none),
            info.at,
        )?;
        Ok(Timestamp { at: info.at, by: common_name(&signer) })
    }

    /// What a token's one signer has signed, and who that is, by the token's own word.
    fn signed(&self, token: &[u8]) -> Result<(Vec<u8>, X509), TsaError> {
        let bad = |words: &str| TsaError::Bad(words.to_owned());
        let pkcs7 = Pkcs7::from_der(token).map_err(|_| bad("it is no CMS signature"))?;
        // A certificate may come along, or be one of those that are believed.
        let mut known = Stack::new().map_err(openssl_says)?;
        for certificate in &self.0 {
            known.push(certificate.clone()).map_err(openssl_says)?;
        }
        let signers = pkcs7
            .signers(&known, Pkcs7Flags::empty())
            .map_err(|_| bad("the TSA's certificate is not in it"))?;
        let [signer] = &signers.iter().collect::<Vec<_>>()[..] else {
            return Err(bad("it is not by one signer"));
        };
        let no_store = X509StoreBuilder::new().map_err(openssl_says)?.build();
        let mut content = Vec::new();
        // The chain has its own check.
        pkcs7
            .verify(&known, &no_store, None, Some(&mut content), Pkcs7Flags::BINARY | Pkcs7Flags::NOVERIFY)
            .map_err(openssl_says)?;
        let attributes = Attributes::read(&pkcs7.to_der().map_err(openssl_says)?)
            .map_err(|_| bad("its signature cannot be read"))?;
        if attributes.content_type != TST_INFO {
            return Err(bad("what it signs is no TSTInfo"));
        }
        // RFC 3161 s. 2.4.2, RFC 5816: the signature says by which certificate it was made.
        let is_named = attributes.certificate.is_some_and(|(algorithm, digest)| {
            hash(algorithm, &signer.to_der().unwrap_or_default()).is_ok_and(|h| *h == digest[..])
        });
        if !is_named {
            return Err(bad("it does not name the TSA's certificate (ESSCertID)"));
        }
        Ok((content, (**signer).to_owned()))
    }

    /// The certificate must be one for timestamps alone (RFC 3161 s. 2.3), and good `at` that time.
    fn vouched_for(&self, signer: &X509Ref, along: &StackRef<X509>, at: Moment) -> Result<(), TsaError> {
        let store = self.store(at).map_err(openssl_says)?;
        let found = X509StoreContext::new().and_then(|mut context| {
            context.init(&store, signer, along, |context| {
                let is_good = context.verify_cert()?;
                let of = context.current_cert().map(common_name).unwrap_or_default();
                Ok(if is_good { Ok(()) } else { Err(format!("{} ({of})", context.error().error_string())) })
            })
        });
        found.map_err(openssl_says)?.map_err(|why| TsaError::Bad(format!("the TSA's certificate: {why}")))
    }

    fn store(&self, at: Moment) -> Result<X509Store, openssl::error::ErrorStack> {
        let mut store = X509StoreBuilder::new()?;
        for certificate in &self.0 {
            store.add_cert(certificate.clone())?;
        }
        store.set_purpose(X509PurposeId::TIMESTAMP_SIGN)?;
        store.set_flags(X509VerifyFlags::PARTIAL_CHAIN)?;
        let mut at_that_time = X509VerifyParam::new()?;
        at_that_time.set_time(at.unix());
        at_that_time.set_auth_level(1);
        store.set_param(&at_that_time)?;
        Ok(store.build())
    }
}

/// The certificates that a stored `.tsr` has with it.
pub fn certificates_of(response: &[u8]) -> Vec<X509> {
    let token = AnyRef::from_der(response).and_then(inside).and_then(|parts| at(&parts, 1)?.to_der());
    let Ok(pkcs7) = token.map_err(|_| ()).and_then(|token| Pkcs7::from_der(&token).map_err(|_| ())) else {
        return Vec::new();
    };
    pkcs7
        .signed()
        .and_then(|signed| signed.certificates())
        .into_iter()
        .flatten()
        .map(ToOwned::to_owned)
        .collect()
}

/// The TSA of `pec_tsa_url`.
pub struct Tsa {
    url: String,
    agent: ureq::Agent,
    cas: TsaCas,
}

impl Tsa {
    /// The TSA of these parameters. `http_proxy` of the environment holds.
    pub fn new(settings: &Timestamps) -> Result<Self, TsaCaError> {
        // Timestamps are signed; TLS adds nothing to what they prove.
        let tls = TlsConfig::builder()
            .provider(TlsProvider::NativeTls)
            .root_certs(RootCerts::PlatformVerifier)
            .build();
        let agent =
            ureq::Agent::config_builder().tls_config(tls).timeout_global(Some(PATIENCE)).build().new_agent();
        Ok(Self { url: settings.url.clone(), agent, cas: TsaCas::read(&settings.ca_file)? })
    }

    /// Those that may vouch for it.
    pub fn cas(&self) -> &TsaCas {
        &self.cas
    }

    /// Asks for a timestamp over `content`; gives back the response as it came, checked.
    pub fn stamp(&self, content: &[u8]) -> Result<(Vec<u8>, Timestamp), TsaError> {
        let away = |trouble: String| TsaError::Away { url: self.url.clone(), trouble };
        let digest = sha256(content);
        let mut nonce = [0; 8];
        rand_bytes(&mut nonce).map_err(openssl_says)?;
        // A positive number without a leading zero byte is the same in every spelling.
        nonce[0] = nonce[0] & 0x7f | 0x40;
        let question = request(&digest, &nonce).map_err(|e| TsaError::Bad(e.to_string()))?;
        let asked = self
            .agent
            .post(&self.url)
            .header("Content-Type", "application/timestamp-query")
            .send(&question[..]);
        let mut answer = asked.map_err(|e| away(e.to_string()))?;
        let answer =
            answer.body_mut().with_config().limit(LARGEST).read_to_vec().map_err(|e| away(e.to_string()))?;
        let timestamp = self.cas.check(&digest, &answer, Some(&nonce))?;
        Ok((answer, timestamp))
    }
}

/// TimeStampReq (RFC 3161 s. 2.4.1): SHA-256, a nonce, and the TSA's certificate is asked for.
fn request(digest: &[u8; 32], nonce: &[u8; 8]) -> der::Result<Vec<u8>> {
    let algorithm = element(Tag::Sequence, &[&SHA_256.to_der()?, &element(Tag::Null, &[])?])?;
    let imprint = element(Tag::Sequence, &[&algorithm, &element(Tag::OctetString, &[digest])?])?;
    let version = element(Tag::Integer, &[&[1]])?;
    let nonce = element(Tag::Integer, &[nonce])?;
    let with_certificate = element(Tag::Boolean, &[&[0xff]])?;
    element(Tag::Sequence, &[&version, &imprint, &nonce, &with_certificate])
}

fn element(tag: Tag, parts: &[&[u8]]) -> der::Result<Vec<u8>> {
    let value = parts.concat();
    AnyRef::new(tag, &value)?.to_der()
}

/// The elements inside of a constructed one.
fn inside(outer: AnyRef<'_>) -> der::Result<Vec<AnyRef<'_>>> {
    let mut reader = SliceReader::new(outer.value())?;
    let mut elements = Vec::new();
    while !reader.is_finished() {
        elements.push(AnyRef::decode(&mut reader)?);
    }
    Ok(elements)
}

/// The element at that place, or an error.
fn at<'a>(elements: &[AnyRef<'a>], place: usize) -> der::Result<AnyRef<'a>> {
    elements.get(place).copied().ok_or_else(|| Tag::Sequence.value_error())
}

/// What of a TSTInfo (RFC 3161 s. 2.4.2) counts here.
struct Info {
    algorithm: ObjectIdentifier,
    imprint: Vec<u8>,
    at: Moment,
    nonce: Option<Vec<u8>>,
}

impl Info {
    fn read(bytes: &[u8]) -> der::Result<Self> {
        let parts = inside(AnyRef::from_der(bytes)?)?;
        let imprint = inside(at(&parts, 2)?)?;
        let algorithm = inside(at(&imprint, 0)?)?;
        let time = at(&parts, 4)?;
        if time.tag() != Tag::GeneralizedTime {
            return Err(time.tag().value_error());
        }
        Ok(Self {
            algorithm: at(&algorithm, 0)?.decode_as()?,
            imprint: at(&imprint, 1)?.value().to_vec(),
            at: generalized_time(time.value()).ok_or_else(|| Tag::GeneralizedTime.value_error())?,
            nonce: parts
                .iter()
                .skip(5)
                .find(|part| part.tag() == Tag::Integer)
                .map(|part| part.value().to_vec()),
        })
    }
}

/// `20261118120000Z`, or with a fraction of a second, which RFC 3161 allows and is left out here.
fn generalized_time(text: &[u8]) -> Option<Moment> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if whole.len() != 14 || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number = |from: usize, to: usize| whole.get(from..to)?.parse::<i8>().ok();
    let time = jiff::civil::DateTime::new(
        whole.get(..4)?.parse().ok()?,
        number(4, 6)?,
        number(6, 8)?,
        number(8, 10)?,
        number(10, 12)?,
        number(12, 14)?,
        0,
    );
    Some(Moment::from_unix(time.ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second()))
}

/// What a CMS signature says of itself.
struct Attributes {
    content_type: ObjectIdentifier,
    /// The hash of the signer's certificate, in the attributes that are signed.
    certificate: Option<(MessageDigest, Vec<u8>)>,
}

impl Attributes {
    fn read(token: &[u8]) -> der::Result<Self> {
        let outer = inside(AnyRef::from_der(token)?)?;
        let signed_data = inside(at(&inside(at(&outer, 1)?)?, 0)?)?;
        let content = inside(at(&signed_data, 2)?)?;
        let signers = inside(at(&signed_data, signed_data.len().saturating_sub(1))?)?;
        let signer = inside(at(&signers, 0)?)?;
        let signed = Tag::ContextSpecific { constructed: true, number: TagNumber::N0 };
        let mut certificate = None;
        for attribute in signer
            .iter()
            .skip(3)
            .find(|part| part.tag() == signed)
            .map(|part| inside(*part))
            .transpose()?
            .unwrap_or_default()
        {
            let attribute = inside(attribute)?;
            let kind: ObjectIdentifier = at(&attribute, 0)?.decode_as()?;
            if kind != SIGNING_CERTIFICATE && kind != SIGNING_CERTIFICATE_V2 {
                continue;
            }
            let value = inside(at(&inside(at(&attribute, 1)?)?, 0)?)?;
            let first = inside(at(&inside(at(&value, 0)?)?, 0)?)?;
            let named = first.first().filter(|part| part.tag() == Tag::Sequence);
            let algorithm = match named {
                _ if kind == SIGNING_CERTIFICATE => Some(MessageDigest::sha1()),
                None => Some(MessageDigest::sha256()),
                Some(named) => digest_of(at(&inside(*named)?, 0)?.decode_as()?),
            };
            let digest = first.iter().find(|part| part.tag() == Tag::OctetString);
            certificate = certificate.or(algorithm.zip(digest.map(|digest| digest.value().to_vec())));
        }
        Ok(Self { content_type: at(&content, 0)?.decode_as()?, certificate })
    }
}

fn digest_of(algorithm: ObjectIdentifier) -> Option<MessageDigest> {
    match algorithm.to_string().as_str() {
        "2.16.840.1.101.3.4.2.1" => Some(MessageDigest::sha256()),
        "2.16.840.1.101.3.4.2.2" => Some(MessageDigest::sha384()),
        "2.16.840.1.101.3.4.2.3" => Some(MessageDigest::sha512()),
        _ => None,
    }
}

/// OpenSSL's own words, the last that say why.
fn openssl_says(errors: openssl::error::ErrorStack) -> TsaError {
    let words = errors.errors().iter().rev().find_map(|e| e.reason()).unwrap_or("unknown error");
    TsaError::Bad(words.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3161_2_4_2_a_time_may_have_a_fraction() {
        assert_eq!(generalized_time(b"20261118120001Z"), Some(Moment::from_unix(1_795_003_201)));
        assert_eq!(generalized_time(b"20261118120001.25Z"), Some(Moment::from_unix(1_795_003_201)));
        for wrong in [
            "20261118120001",
            "20261118120001+0100",
            "202611181200Z",
            "20261318120001Z",
            "20261118120001.2xZ",
        ] {
            assert_eq!(generalized_time(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
