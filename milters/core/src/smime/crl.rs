//! Revocation lists (CRLs, RFC 5280 s. 5): read, judged, and kept in a directory that all programs of a host
//! share.
//!
//! Promise: a list counts only if the CA that issued the certificate has signed it, for that place, whole (no
//! delta, no indirect one, not for some reasons alone). An older list never takes the place of a newer one.
//! What is in force lies in one file for each place, written as a whole; programs see a change with the next
//! message.
//!
//! Nothing here speaks to a network: whoever fetches brings the bytes to [`CrlDirectory::take`].

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use const_oid::ObjectIdentifier;
use const_oid::db::rfc5280::{ID_CE_DELTA_CRL_INDICATOR, ID_CE_ISSUING_DISTRIBUTION_POINT};
use der::asn1::{AnyRef, SequenceRef};
use der::{Decode, Sequence};
use openssl::bn::BigNum;
use openssl::sha::Sha256;
use openssl::x509::{CrlNumber, CrlStatus, X509, X509Crl, X509KeyUsage, X509Ref};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::crl::dp::IssuingDistributionPoint;
use x509_cert::ext::pkix::name::{DistributionPointName, GeneralName};
use x509_cert::time::Time;

use super::{common_name, moment};
use crate::clock::Moment;
use crate::files::{Stamp, replace, stamp};
use crate::identifier::hex;

/// How far ahead a CA's clock may be, in seconds.
const AHEAD: i64 = 3600;

/// A change of the directory younger than this may be followed by another that looks the same: files' times
/// are coarse.
const RECENT: Duration = Duration::from_secs(1);

const SUFFIX: &str = ".pem";

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

/// Why a list does not count.
#[derive(Debug, thiserror::Error)]
pub enum CrlError {
    /// It is none, not the CA's, or one that is not supported.
    #[error("{0}")]
    Refused(String),
    /// `pec_crl_directory` cannot be read or written.
    #[error("pec_crl_directory = {path}: {trouble}")]
    Directory {
        /// Its value.
        path: String,
        /// What happened.
        trouble: io::Error,
    },
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
    fn read(bytes: &[u8], place: &Place) -> Result<Self, String> {
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
    fn stays_before(&self, newer: &Self) -> Option<String> {
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

/// All places that are known, as of one moment.
#[derive(Debug, Default)]
pub struct Lists {
    /// Another number, another content.
    pub generation: u64,
    by_key: HashMap<String, (Stamp, Known)>,
}

impl Lists {
    /// The list that is in force for a place.
    pub fn get(&self, place: &Place) -> Option<&Arc<Crl>> {
        self.by_key.get(&place.key())?.1.crl.as_ref()
    }

    /// All, by address.
    pub fn all(&self) -> Vec<Known> {
        let mut all: Vec<Known> = self.by_key.values().map(|(_, known)| known.clone()).collect();
        all.sort_by(|a, b| a.place.url.cmp(&b.place.url));
        all
    }
}

/// What [`CrlDirectory::take`] did.
#[derive(Debug, Clone)]
pub enum Taken {
    /// It is in force now.
    New(Arc<Crl>),
    /// It is the one that is in force.
    Same(Arc<Crl>),
}

/// `pec_crl_directory`: one file for each place, readable by people and by `openssl crl -in FILE`: the
/// address, the CA's certificate, the list.
#[derive(Debug)]
pub struct CrlDirectory {
    path: PathBuf,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// The directory when it was read; `None`: read it again.
    changed: Option<SystemTime>,
    lists: Arc<Lists>,
}

impl CrlDirectory {
    /// The directory at `path`, which need not be there yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), seen: Mutex::default() }
    }

    fn error(&self, trouble: io::Error) -> CrlError {
        CrlError::Directory { path: self.path.display().to_string(), trouble }
    }

    /// What is in force now.
    pub fn lists(&self) -> Result<Arc<Lists>, CrlError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = match fs::metadata(&self.path) {
            Ok(metadata) => metadata.modified().map_err(|e| self.error(e))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => SystemTime::UNIX_EPOCH,
            Err(e) => return Err(self.error(e)),
        };
        if seen.changed == Some(changed) {
            return Ok(Arc::clone(&seen.lists));
        }
        let by_key = self.read_all(&seen.lists.by_key).map_err(|e| self.error(e))?;
        let is_same = by_key.len() == seen.lists.by_key.len()
            && by_key.iter().all(|(key, (stamp, _))| {
                seen.lists.by_key.get(key).is_some_and(|(before, _)| before == stamp)
            });
        if !is_same {
            seen.lists = Arc::new(Lists { generation: seen.lists.generation + 1, by_key });
        }
        let is_settled = SystemTime::now().duration_since(changed).is_ok_and(|age| age > RECENT);
        seen.changed = is_settled.then_some(changed);
        Ok(Arc::clone(&seen.lists))
    }

    fn read_all(
        &self,
        before: &HashMap<String, (Stamp, Known)>,
    ) -> io::Result<HashMap<String, (Stamp, Known)>> {
        let mut all = HashMap::new();
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(all),
            Err(e) => return Err(e),
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let Some(key) = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)) else { continue };
            let stamp = stamp(&entry.metadata()?);
            let known = match before.get(key) {
                Some((same, known)) if *same == stamp => known.clone(),
                _ => match parse(&fs::read(entry.path())?).filter(|known| known.place.key() == key) {
                    Some(known) => known,
                    // What somebody else has put there is nobody's list.
                    None => continue,
                },
            };
            all.insert(key.to_owned(), (stamp, known));
        }
        Ok(all)
    }

    /// Makes a place known, so that it is fetched on schedule from now on.
    pub fn note(&self, place: &Place) -> Result<(), CrlError> {
        if self.lists()?.by_key.contains_key(&place.key()) {
            return Ok(());
        }
        self.locked(|| if self.on_disk(place)?.is_none() { self.write(place, None) } else { Ok(()) })
            .map_err(|e| self.error(e))
    }

    /// Puts `bytes`, which were fetched from `place` at `now`, in force, if they are a list that counts and
    /// is not older than the one that is.
    pub fn take(&self, place: &Place, bytes: &[u8], now: Moment) -> Result<Taken, CrlError> {
        let crl = Arc::new(Crl::read(bytes, place).map_err(CrlError::Refused)?);
        if crl.this_update.unix() > now.unix() + AHEAD {
            return Err(CrlError::Refused(format!("it is of {}, which has not come yet", crl.this_update)));
        }
        let mut refused = None;
        let taken = self.locked(|| {
            if let Some(old) = self.on_disk(place)?.and_then(|known| known.crl) {
                if old.list.to_der().ok() == crl.list.to_der().ok() {
                    return Ok(Taken::Same(old));
                }
                refused = old.stays_before(&crl);
                if refused.is_some() {
                    return Ok(Taken::Same(old));
                }
            }
            self.write(place, Some(&crl))?;
            Ok(Taken::New(Arc::clone(&crl)))
        });
        let taken = taken.map_err(|e| self.error(e))?;
        match refused {
            Some(why) => Err(CrlError::Refused(format!(
                "{why}; to go back all the same, remove the file of {}",
                self.file(place).display()
            ))),
            None => Ok(taken),
        }
    }

    /// Where a place's list lies.
    fn file(&self, place: &Place) -> PathBuf {
        self.path.join(place.key() + SUFFIX)
    }

    fn on_disk(&self, place: &Place) -> io::Result<Option<Known>> {
        match fs::read(self.file(place)) {
            Ok(text) => Ok(parse(&text)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Several programs write: one at a time compares and replaces.
    fn locked<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if !self.path.exists() {
            fs::create_dir(&self.path)?;
            // The administrator's command may be first, and the milters must be able to write here.
            if let Some(owner) = self.path.parent().and_then(|above| fs::metadata(above).ok()) {
                let _ = chown(&self.path, Some(owner.uid()), Some(owner.gid()));
            }
        }
        let directory = File::open(&self.path)?;
        directory.lock()?;
        let done = work()?;
        directory.sync_all()?;
        Ok(done)
    }

    fn write(&self, place: &Place, crl: Option<&Crl>) -> io::Result<()> {
        let mut text = format!("url: {}\n", place.url);
        place
            .also
            .iter()
            .filter(|also| !also.contains(char::is_control))
            .for_each(|also| text += &format!("also: {also}\n"));
        let mut text = text.into_bytes();
        text.extend(place.issuer.to_pem().map_err(io::Error::other)?);
        if let Some(crl) = crl {
            text.extend(crl.list.to_pem().map_err(io::Error::other)?);
        }
        replace(&self.file(place), |new| new.write_all(&text))
    }
}

/// Reads a file of the directory; a list in it that does not count is none.
fn parse(text: &[u8]) -> Option<Known> {
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
    Some(Known { place, crl })
}
