//! Revocation lists (CRLs, RFC 5280 s. 5): read and judged.
//!
//! Promise: a list counts only if the CA that issued the certificate has signed it, for that place, whole (no
//! delta, no indirect one, not for some reasons alone). An older list never takes the place of a newer one.
//! Who fetches lists, and where they lie, is not known here.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use const_oid::ObjectIdentifier;
use const_oid::db::rfc5280::{ID_CE_DELTA_CRL_INDICATOR, ID_CE_ISSUING_DISTRIBUTION_POINT};
use der::asn1::{AnyRef, SequenceRef};
use der::{Decode, Sequence};
use openssl::bn::BigNum;
use openssl::error::ErrorStack;
use openssl::sha::Sha256;
use openssl::x509::{CrlNumber, CrlStatus, X509, X509Crl, X509KeyUsage, X509Ref};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::crl::dp::IssuingDistributionPoint;
use x509_cert::ext::pkix::name::{DistributionPointName, GeneralName};
use x509_cert::time::Time;

use super::{common_name, moment};
use crate::clock::Moment;
use crate::identifier::hex;

/// How far ahead a CA's clock may be, in seconds.
const AHEAD: i64 = 3600;

/// A place where a CA lays down its list, and the CA that must have signed what lies there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// An `http://` address.
    pub url: String,
    /// What else the certificates call the place: addresses that nobody here asks.
    pub also: Vec<String>,
    /// The CA.
    pub issuer: X509,
}

/// Where a certificate says that it can be asked about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// Each of them has the whole answer.
    pub http: Vec<Place>,
    /// Addresses of other kinds (`ldap:`), which are skipped.
    pub skipped: Vec<String>,
}

impl Places {
    /// Those that `certificate` names, which `issuer` has issued.
    pub fn of(certificate: &X509Ref, issuer: &X509Ref) -> Self {
        let mut places = Self::default();
        for point in certificate.crl_distribution_points().iter().flatten() {
            let Some(names) = point.distpoint().and_then(|name| name.fullname()) else { continue };
            let urls: Vec<String> = names.iter().filter_map(|name| name.uri()).map(str::to_owned).collect();
            for url in &urls {
                if is_http(url) {
                    let also = urls.iter().filter(|other| *other != url).cloned().collect();
                    places.http.push(Place { url: url.clone(), also, issuer: issuer.to_owned() });
                } else {
                    places.skipped.push(url.clone());
                }
            }
        }
        places
    }
}

fn is_http(url: &str) -> bool {
    url.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http://"))
        && !url.contains(|c: char| c.is_control() || c == ' ')
}

impl Place {
    /// Names the place and whose list lies there: the same for every certificate that the CA's key has
    /// signed.
    pub fn key(&self) -> String {
        let mut hash = Sha256::new();
        let name = self.issuer.subject_name().to_der().unwrap_or_default();
        let key = self.issuer.public_key().and_then(|key| key.public_key_to_der()).unwrap_or_default();
        for part in [self.url.as_bytes(), &name, &key] {
            hash.update(&part.len().to_be_bytes());
            hash.update(part);
        }
        hex(&hash.finish()[..16])
    }
}

/// A list that its CA has signed.
pub struct Crl {
    list: X509Crl,
    /// When the CA made it.
    pub this_update: Moment,
    /// Until when the CA promises a new one.
    pub next_update: Moment,
    number: Option<BigNum>,
    only_for: OnlyFor,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnlyFor {
    All,
    Users,
    Cas,
}

/// A list's outer form; the entries, of which there may be hundred thousands, are left to OpenSSL.
#[derive(Sequence)]
struct Outer<'a> {
    list: Inner<'a>,
    algorithm: SequenceRef<'a>,
    signature: AnyRef<'a>,
}

#[derive(Sequence)]
struct Inner<'a> {
    version: Option<u8>,
    algorithm: SequenceRef<'a>,
    issuer: SequenceRef<'a>,
    this_update: Time,
    next_update: Option<Time>,
    revoked: Option<SequenceRef<'a>>,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    extensions: Option<Vec<Extension>>,
}

impl Crl {
    /// Reads DER or PEM. The error says why it does not count.
    pub fn read(bytes: &[u8], place: &Place) -> Result<Self, String> {
        let list = X509Crl::from_der(bytes)
            .or_else(|_| X509Crl::from_pem(bytes))
            .map_err(|_| "it is no CRL".to_owned())?;
        let issuer = &place.issuer;
        if list.issuer_name().try_cmp(issuer.subject_name()).map_err(|e| e.to_string())?.is_ne() {
            return Err(format!("it is a CRL of somebody else than {}", common_name(issuer)));
        }
        if issuer.key_usage().is_some_and(|usage| !usage.contains(X509KeyUsage::CRL_SIGN)) {
            return Err(format!("{} may not sign CRLs (keyUsage)", common_name(issuer)));
        }
        if !issuer.public_key().and_then(|key| list.verify(&key)).unwrap_or(false) {
            return Err(format!("{} has not signed it", common_name(issuer)));
        }
        let der = list.to_der().map_err(|e| e.to_string())?;
        let Outer { list: Inner { this_update, next_update, extensions, .. }, .. } =
            Outer::from_der(&der).map_err(|e| format!("it cannot be read: {e}"))?;
        let only_for = only_for(extensions.as_deref().unwrap_or_default(), place)?;
        let at = |time: Time| {
            i64::try_from(time.to_unix_duration().as_secs()).map(Moment::from_unix).map_err(|e| e.to_string())
        };
        let (_, number) = list.extension::<CrlNumber>().map_err(|e| e.to_string())?.unzip();
        Ok(Self {
            this_update: at(this_update)?,
            next_update: at(next_update.ok_or("it does not say when the next one comes (nextUpdate)")?)?,
            number: number.map(|number| number.to_bn()).transpose().map_err(|e| e.to_string())?,
            only_for,
            list,
        })
    }

    /// Why it does not count yet at `now`, if so: it is of a time to come.
    pub fn not_come(&self, now: Moment) -> Option<String> {
        let is_ahead = self.this_update.unix() > now.unix() + AHEAD;
        is_ahead.then(|| format!("it is of {}, which has not come yet", self.this_update))
    }

    /// Whether they are the same bytes.
    pub fn is_same(&self, other: &Self) -> bool {
        self.list.to_der().ok() == other.list.to_der().ok()
    }

    /// Whether it speaks of CAs' certificates, or of others.
    pub fn covers(&self, is_ca: bool) -> bool {
        match self.only_for {
            OnlyFor::All => true,
            OnlyFor::Users => !is_ca,
            OnlyFor::Cas => is_ca,
        }
    }

    /// Since when `certificate` is revoked, if it is.
    pub fn revoked(&self, certificate: &X509) -> Option<Moment> {
        match self.list.get_by_cert(certificate) {
            // A date that cannot be read is as good as one long ago.
            CrlStatus::Revoked(entry) => {
                Some(moment(entry.revocation_date()).unwrap_or(Moment::from_unix(0)))
            }
            CrlStatus::NotRevoked | CrlStatus::RemoveFromCrl(_) => None,
        }
    }

    /// How many certificates are revoked.
    pub fn len(&self) -> usize {
        self.list.get_revoked().map_or(0, |revoked| revoked.len())
    }

    /// Whether none is revoked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Why `newer` must not take its place, if so.
    pub fn stays_before(&self, newer: &Self) -> Option<String> {
        if newer.this_update < self.this_update {
            return Some(format!(
                "it is of {}, and the one in force is of {}",
                newer.this_update, self.this_update
            ));
        }
        match (&self.number, &newer.number) {
            (Some(old), Some(new)) if new < old => {
                Some(format!("its number is {new}, and the one in force has {old}"))
            }
            (Some(old), None) => Some(format!("it has no number, and the one in force has {old}")),
            _ => None,
        }
    }
}

impl fmt::Debug for Crl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crl")
            .field("this_update", &self.this_update)
            .field("next_update", &self.next_update)
            .finish_non_exhaustive()
    }
}

/// What the extensions say that the list is about (RFC 5280 s. 5.2). A critical one that is not known refuses
/// the list.
fn only_for(extensions: &[Extension], place: &Place) -> Result<OnlyFor, String> {
    let mut only_for = OnlyFor::All;
    for extension in extensions {
        let oid: ObjectIdentifier = extension.extn_id;
        if oid == ID_CE_DELTA_CRL_INDICATOR {
            return Err("it is a delta CRL, and only whole ones are read".to_owned());
        }
        if oid == ID_CE_ISSUING_DISTRIBUTION_POINT {
            let scope = IssuingDistributionPoint::from_der(extension.extn_value.as_bytes())
                .map_err(|e| format!("its scope cannot be read: {e}"))?;
            if scope.indirect_crl || scope.only_some_reasons.is_some() || scope.only_contains_attribute_certs
            {
                return Err("it is an indirect CRL, one for some reasons or one of attribute certificates, \
                    which are not read"
                    .to_owned());
            }
            if let Some(name) = &scope.distribution_point {
                is_of_place(name, place)?;
            }
            only_for = match (scope.only_contains_user_certs, scope.only_contains_ca_certs) {
                (false, false) => OnlyFor::All,
                (true, false) => OnlyFor::Users,
                (false, true) => OnlyFor::Cas,
                (true, true) => return Err("it says to be for users alone and for CAs alone".to_owned()),
            };
        } else if extension.critical {
            return Err(format!("it has a critical extension that is not known ({oid})"));
        }
    }
    Ok(only_for)
}

/// A CA that has several lists could be given the one for the other: each says where it belongs (RFC 5280 s.
/// 6.3.3 (b) (2)).
fn is_of_place(name: &DistributionPointName, place: &Place) -> Result<(), String> {
    let DistributionPointName::FullName(names) = name else {
        return Err("its place is named relative to its issuer".to_owned());
    };
    let urls: Vec<&str> = names
        .iter()
        .filter_map(|n| {
            if let GeneralName::UniformResourceIdentifier(uri) = n { Some(uri.as_str()) } else { None }
        })
        .collect();
    if urls.iter().any(|url| *url == place.url || place.also.iter().any(|also| also == url)) {
        return Ok(());
    }
    Err(format!("it belongs to another place ({})", urls.join(", ")))
}

/// A place, and what lies there.
#[derive(Debug, Clone)]
pub struct Known {
    /// Where.
    pub place: Place,
    /// The list in force; `None` before the first has come.
    pub crl: Option<Arc<Crl>>,
}

impl Known {
    /// As text that people and `openssl crl` read: the address, the CA's certificate, the list.
    pub fn to_text(&self) -> Result<Vec<u8>, ErrorStack> {
        let mut text = format!("url: {}\n", self.place.url);
        let also = self.place.also.iter().filter(|also| !also.contains(char::is_control));
        also.for_each(|also| text += &format!("also: {also}\n"));
        let mut text = text.into_bytes();
        text.extend(self.place.issuer.to_pem()?);
        if let Some(crl) = &self.crl {
            text.extend(crl.list.to_pem()?);
        }
        Ok(text)
    }

    /// Reads that text; a list in it that does not count is none.
    pub fn from_text(text: &[u8]) -> Option<Self> {
        let issuer = X509::from_pem(text).ok()?;
        let head = text
            .split(|&b| b == b'\n')
            .take_while(|line| !line.starts_with(b"-----"))
            .map(String::from_utf8_lossy);
        let (mut url, mut also) = (None, Vec::new());
        for line in head {
            match line.split_once(": ") {
                Some(("url", value)) => url = Some(value.to_owned()),
                Some(("also", value)) => also.push(value.to_owned()),
                _ => {}
            }
        }
        let place = Place { url: url?, also, issuer };
        let crl = Crl::read(text, &place).ok().map(Arc::new);
        Some(Self { place, crl })
    }
}

/// All places that are known, as of one moment.
#[derive(Debug, Default)]
pub struct Lists {
    /// Another number, another content.
    pub generation: u64,
    by_key: HashMap<String, Known>,
}

impl Lists {
    /// These, by the key of their place.
    pub fn new(generation: u64, by_key: HashMap<String, Known>) -> Self {
        Self { generation, by_key }
    }

    /// Whether the place is known.
    pub fn knows(&self, place: &Place) -> bool {
        self.by_key.contains_key(&place.key())
    }

    /// The list that is in force for a place.
    pub fn get(&self, place: &Place) -> Option<&Arc<Crl>> {
        self.by_key.get(&place.key())?.crl.as_ref()
    }

    /// All, by address.
    pub fn all(&self) -> Vec<Known> {
        let mut all: Vec<Known> = self.by_key.values().cloned().collect();
        all.sort_by(|a, b| a.place.url.cmp(&b.place.url));
        all
    }
}
