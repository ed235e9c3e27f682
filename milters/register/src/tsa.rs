//! Timestamps by an authority that is not ours (RFC 3161): they say that something existed by then.
//!
//! Promise: a timestamp that comes out of here, fetched or read from a file, was made over exactly these
//! bytes by a TSA for which `pec_tsa_ca_file` vouches as of the time that it states; one that was fetched
//! answers our own question besides. It is kept as it came (`.tsr`, the whole TimeStampResp), so that
//! `openssl ts -verify` reads it.
//!
//! Ours: openssl's crate has no timestamps, and no other crate checks them. Signature and chain are OpenSSL's
//! to check, the forms are [`crate::tsp`]'s.

use std::path::Path;
use std::time::Duration;

use cms::content_info::ContentInfo;
use der::{Decode as _, Encode as _};
use openssl::hash::hash;
use openssl::pkcs7::{Pkcs7, Pkcs7Flags};
use openssl::rand::rand_bytes;
use openssl::sha::sha256;
use openssl::stack::{Stack, StackRef};
use openssl::x509::store::{X509Store, X509StoreBuilder};
use openssl::x509::verify::{X509VerifyFlags, X509VerifyParam};
use openssl::x509::{X509, X509PurposeId, X509Ref, X509StoreContext};
use pec_core::clock::Moment;
use pec_core::smime::common_name;
use pec_core::smime::walk::walk;
use pec_host::http::{Answer, Http, Limits};
use pec_host::parameters::{ParameterError, Timestamps};
use pec_host::read::certificates;

use crate::tsp::{
    GRANTED, GRANTED_WITH_MODS, SHA_256, SignedData, TST_INFO, TimeStampReq, TimeStampResp, TstInfo, Unread,
};

/// What a TSA may cost; more bytes than a timestamp with its certificates has.
const LIMITS: Limits = Limits { patience: Duration::from_secs(20), redirects: 10, largest: 256 * 1024 };

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
    /// Reads a PEM file (`pec_tsa_ca_file`).
    pub fn read(file: &Path) -> Result<Self, ParameterError> {
        certificates("pec_tsa_ca_file", file).map(Self)
    }

    /// These CAs.
    pub fn of(certificates: Vec<X509>) -> Self {
        Self(certificates)
    }

    /// Their certificates.
    pub fn certificates(&self) -> &[X509] {
        &self.0
    }

    /// Checks a stored `.tsr` over `content`. Needs no connection.
    pub fn verify(&self, content: &[u8], response: &[u8]) -> Result<Timestamp, TsaError> {
        self.check(&sha256(content), response, None)
    }

    fn check(&self, digest: &[u8; 32], response: &[u8], nonce: Option<&[u8]>) -> Result<Timestamp, TsaError> {
        let form = |_| TsaError::Bad("it is no TimeStampResp".to_owned());
        let response = TimeStampResp::from_der(response).map_err(form)?;
        let granted = matches!(response.status.status, GRANTED | GRANTED_WITH_MODS);
        let Some(token) = response.token.filter(|_| granted) else {
            return Err(TsaError::Refused(response.status.words()));
        };
        let token = token.to_der().map_err(form)?;
        let (info, signer) = self.signed(&token)?;
        let unreadable = || TsaError::Bad("it has no TSTInfo that can be read".to_owned());
        let info = TstInfo::from_der(&info).map_err(|_| unreadable())?;
        let at = generalized_time(info.gen_time.value()).ok_or_else(unreadable)?;
        if info.imprint.algorithm.oid != SHA_256 || info.imprint.hash.value() != digest {
            return Err(TsaError::Bad("it is over other bytes".to_owned()));
        }
        if nonce.is_some() && info.nonce.as_ref().map(Unread::value) != nonce {
            return Err(TsaError::Bad("it answers another question than ours (nonce)".to_owned()));
        }
        let along = Pkcs7::from_der(&token).map_err(openssl_says)?;
        let none = Stack::new().map_err(openssl_says)?;
        self.vouched_for(
            &signer,
            along.signed().and_then(|signed| signed.certificates()).unwrap_or(&none),
            at,
        )?;
        Ok(Timestamp { at, by: common_name(&signer) })
    }

    /// What a token's one signer has signed, and who that is, by the token's own word.
    fn signed(&self, token: &[u8]) -> Result<(Vec<u8>, X509), TsaError> {
        let bad = |words: &str| TsaError::Bad(words.to_owned());
        walk(token).map_err(|e| bad(&e.to_string()))?;
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
        // Written again: what came may be in BER.
        let der = pkcs7.to_der().map_err(openssl_says)?;
        let unreadable = |_| bad("its signature cannot be read");
        let signed_data = ContentInfo::from_der(&der).and_then(|outer| outer.content.to_der());
        let signed_data = signed_data.map_err(unreadable)?;
        let signed_data = SignedData::from_der(&signed_data).map_err(unreadable)?;
        if signed_data.content.econtent_type != TST_INFO {
            return Err(bad("what it signs is no TSTInfo"));
        }
        // RFC 3161 s. 2.4.2, RFC 5816: the signature says by which certificate it was made.
        let named = signed_data.signing_certificate().map_err(unreadable)?;
        let is_named = named.is_some_and(|(algorithm, digest)| {
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
    let token = TimeStampResp::from_der(response).ok().and_then(|response| response.token?.to_der().ok());
    let Some(pkcs7) = token.and_then(|token| Pkcs7::from_der(&token).ok()) else { return Vec::new() };
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
    http: Http,
    cas: TsaCas,
}

impl Tsa {
    /// The TSA of these parameters. `http_proxy` of the environment holds.
    pub fn new(settings: &Timestamps) -> Result<Self, ParameterError> {
        // Timestamps are signed; TLS adds nothing to what they prove.
        let http = Http::new(LIMITS);
        Ok(Self { url: settings.url.clone(), http, cas: TsaCas::read(&settings.ca_file)? })
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
        let question = TimeStampReq::of(&digest, &nonce).and_then(|question| question.to_der());
        let question = question.map_err(|e| TsaError::Bad(e.to_string()))?;
        let asked = self.http.post(&self.url, "application/timestamp-query", &question);
        let answer = asked.and_then(Answer::succeeded).map_err(away)?.body;
        let timestamp = self.cas.check(&digest, &answer, Some(&nonce))?;
        Ok((answer, timestamp))
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
