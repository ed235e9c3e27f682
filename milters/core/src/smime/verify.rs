//! Checking a detached CMS signature (RFC 6109 s. 2.2.2, "signature validity").
//!
//! Promise: the content is the bytes as they were received; the chain must end at one of the configured CAs
//! and nowhere else (OpenSSL's own store is never asked), and keep within what the CAs above allow (name
//! constraints); nobody in it may be revoked; DER and BER, within the bounds of [`super::walk`], are read. What cannot be known
//! now, for want of a revocation list, is neither believed nor disbelieved: [`VerifyError::NotKnown`].
//!
//! The signature is checked for each message; chain and revocation lists are looked at once for each signer,
//! and again when a list changes.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use openssl::cms::{CMSOptions, CmsContentInfo};
use openssl::hash::MessageDigest;
use openssl::sha::Sha256;
use openssl::stack::{Stack, StackRef};
use openssl::x509::store::{X509Store, X509StoreBuilder};
use openssl::x509::verify::X509VerifyFlags;
use openssl::x509::{X509, X509PurposeId, X509Ref, X509StoreContext};

use super::crl::{Crl, Lists, Place, Places};
use super::profile::breaches;
use super::walk::{WalkError, walk};
use super::{certificate_addresses, certificate_hash, common_name, moment};
use crate::clock::Moment;

/// How many chains are remembered. There are some dozens of providers; whoever has a signature of theirs can
/// add other certificates to it, and each makes another chain.
const CHAINS: usize = 1000;

/// What becomes of a signature where the CA's revocation list is past the time for which it promised a new
/// one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TooOld {
    /// It is not known whether to believe it: mail waits.
    #[default]
    Wait,
    /// It is believed, by what the old list says.
    Believe,
}

/// What believing a signature asks of the world around it.
pub trait Revocations: Send + Sync {
    /// What the CAs say of revoked certificates, now. The error says why that is not known.
    fn lists(&self) -> Result<Arc<Lists>, String>;

    /// An administrator should know this. It is said once for each.
    fn remark(&self, remark: &Remark<'_>);
}

/// What an administrator should know of a signature that is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remark<'a> {
    /// The certificate of this provider breaks rules of RFC 6109 s. 5.5 that do not make it worthless.
    ProfileBroken {
        /// Whose.
        provider: &'a str,
        /// SHA-1 of the certificate, lower-case hexadecimal.
        sha1: &'a str,
        /// Which rules.
        breaches: String,
    },
    /// Its signatures are over SHA-1: whose they are.
    Sha1(&'a str),
    /// Whether a certificate is revoked is not known: why.
    PerhapsRevoked(&'a str),
    /// This address of a list is not asked, since it is no `http://` one.
    Skipped(&'a str),
}

/// The CAs that are believed, and what they say of revoked certificates.
pub struct TrustedCas {
    certificates: Vec<X509>,
    crls: Option<(Arc<dyn Revocations>, TooOld)>,
    looks_back: bool,
    chains: Mutex<HashMap<[u8; 32], Arc<Chain>>>,
    warned: Mutex<HashSet<String>>,
    looks: AtomicUsize,
}

/// What is known of who signed.
#[derive(Clone)]
pub struct SignedBy {
    /// The certificate.
    certificate: X509,
    /// How it leads to a CA that is believed.
    chain: Arc<Chain>,
    /// SHA-1 of the certificate, lower-case hexadecimal.
    pub sha1: String,
    /// SHA-256 of the certificate, lower-case hexadecimal.
    pub sha256: String,
    /// The addresses in the certificate.
    pub addresses: Vec<String>,
    /// The certificate's common name.
    pub common_name: String,
}

impl fmt::Debug for SignedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignedBy")
            .field("sha1", &self.sha1)
            .field("common_name", &self.common_name)
            .finish_non_exhaustive()
    }
}

/// Why a signature is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The bytes are no CMS signature, or one without exactly one signer.
    #[error("the signature part is no CMS signature by one signer")]
    NotASignature,
    /// The content was changed, or it exceeds what is read, or the certificate does not lead to a CA that is believed, or was not valid
    /// then.
    #[error("the signature does not verify: {0}")]
    NotVerified(String),
    /// A certificate is on its CA's list.
    #[error(
        "the signature does not verify: the certificate of {common_name} was revoked on {since} (CRL \
        {url})"
    )]
    Revoked {
        /// Whose.
        common_name: String,
        /// Since when.
        since: Moment,
        /// Where the list lies.
        url: String,
    },
    /// Nobody can say now. Temporary: to be asked again once the lists of these places are there, or new.
    #[error("{0}")]
    NotKnown(NotKnown),
}

impl VerifyError {
    /// The same in Italian, but for OpenSSL's own words.
    pub fn italiano(&self) -> String {
        match self {
            Self::NotASignature => "la firma non è una struttura CMS di un solo firmatario".to_owned(),
            Self::NotVerified(words) => format!("la firma non risulta valida: {words}"),
            Self::Revoked { common_name, since, url } => {
                format!(
                    "il certificato di {common_name} è stato revocato il {} alle ore {} (CRL {url})",
                    since.giorno(),
                    since.ora()
                )
            }
            Self::NotKnown(not_known) => format!("non è noto se la firma sia valida: {not_known}"),
        }
    }
}

/// What is missing to know whether a signature is to be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("whether the certificate of {common_name} is revoked cannot be known now: {why}")]
pub struct NotKnown {
    /// Whose certificate it is.
    common_name: String,
    /// Names the lists, and what is wrong with them.
    why: String,
    /// Where they are; one list of each entry is enough.
    pub wanted: Vec<Vec<Place>>,
}

/// The way from a signer's certificate to a CA that is believed.
struct Chain {
    not_before: Moment,
    not_after: Moment,
    /// The signer's certificate first, the believed CA's not among them.
    links: Vec<Link>,
    /// What the lists of this generation say.
    revocation: Mutex<Option<(u64, Arc<Revocation>)>>,
}

/// A certificate that can be revoked, by the CA that issued it.
struct Link {
    certificate: X509,
    places: Places,
}

/// What revocation lists say of a chain, whenever it is asked.
#[derive(Default)]
struct Revocation {
    /// Since when a certificate of it is revoked, and which.
    revoked: Option<(Moment, VerifyError)>,
    /// For what there is no list at all.
    missing: Option<NotKnown>,
    /// Until when the lists are good.
    lists: Vec<(Moment, NotKnown)>,
}

impl TrustedCas {
    /// These CAs. Certificates that can be revoked are not known to be good until [`Self::asking`] says who
    /// knows the lists.
    pub fn of(certificates: Vec<X509>) -> Self {
        Self {
            certificates,
            crls: None,
            looks_back: false,
            chains: Mutex::default(),
            warned: Mutex::default(),
            looks: AtomicUsize::new(0),
        }
    }

    /// Whether OpenSSL can work with them. The error is OpenSSL's.
    pub fn check(&self) -> Result<(), String> {
        self.store(Moment::from_unix(0)).map(drop).map_err(|e| e.to_string())
    }

    /// The same, with these revocation lists.
    pub fn asking(self, crls: Arc<dyn Revocations>, too_old: TooOld) -> Self {
        Self { crls: Some((crls, too_old)), ..self }
    }

    /// The same, for judging messages of the past: whoever was revoked later was good then. Otherwise who is
    /// on a list is revoked, also where the list's date is after our clock, which may be slow.
    pub fn looking_back(self) -> Self {
        Self { looks_back: true, ..self }
    }

    /// How often a chain was built or revocation lists were asked about one; the rest came from memory.
    pub fn looks(&self) -> usize {
        self.looks.load(Ordering::Relaxed)
    }

    /// Checks that `signature` is one over exactly `content` by a certificate that one of the CAs vouches for
    /// as of `at` and that is not revoked.
    pub fn verify(&self, content: &[u8], signature: &[u8], at: Moment) -> Result<SignedBy, VerifyError> {
        let signed_by = self.signed_by(content, signature, at)?;
        self.not_revoked(&signed_by, at)?;
        Ok(signed_by)
    }

    /// The same, without asking whether anybody in the chain is revoked.
    pub fn signed_by(&self, content: &[u8], signature: &[u8], at: Moment) -> Result<SignedBy, VerifyError> {
        let not_verified = |e: openssl::error::ErrorStack| VerifyError::NotVerified(reason(&e));
        let walked = walk(signature).map_err(|e| match e {
            WalkError::NotSigned(_) => VerifyError::NotASignature,
            e => VerifyError::NotVerified(e.to_string()),
        })?;
        if walked.signers != 1 {
            return Err(VerifyError::NotASignature);
        }
        let mut along = Stack::new().map_err(not_verified)?;
        for certificate in &walked.certificates {
            along
                .push(X509::from_der(certificate).map_err(|_| VerifyError::NotASignature)?)
                .map_err(not_verified)?;
        }
        let signer = one_that_signed(content, signature, &along)?;
        let chain = self.chain(&signer, &along, at)?;
        if walked.has_sha1 && self.is_first(format!("SHA-1 {}", common_name(&signer))) {
            self.remark(&Remark::Sha1(&common_name(&signer)));
        }
        Ok(SignedBy {
            chain,
            sha1: certificate_hash(&signer, MessageDigest::sha1()),
            sha256: certificate_hash(&signer, MessageDigest::sha256()),
            addresses: certificate_addresses(&signer),
            common_name: common_name(&signer),
            certificate: signer,
        })
    }

    /// The chain from `signer` by way of certificates that came `along`. One that was found is good as long
    /// as all in it are valid; that there is none is not remembered, since anybody can make such.
    fn chain(&self, signer: &X509Ref, along: &StackRef<X509>, at: Moment) -> Result<Arc<Chain>, VerifyError> {
        let not_verified = |e: openssl::error::ErrorStack| VerifyError::NotVerified(reason(&e));
        let mut hash = Sha256::new();
        for certificate in std::iter::once(signer).chain(along) {
            hash.update(&certificate.digest(MessageDigest::sha256()).map_err(not_verified)?);
        }
        let key = hash.finish();
        if let Some(chain) = self.chains.lock().unwrap_or_else(PoisonError::into_inner).get(&key)
            && (chain.not_before..=chain.not_after).contains(&at)
        {
            return Ok(Arc::clone(chain));
        }

        self.looks.fetch_add(1, Ordering::Relaxed);
        let store = self.store(at).map_err(not_verified)?;
        let found = X509StoreContext::new().and_then(|mut context| {
            context.init(&store, signer, along, |context| {
                let is_good = context.verify_cert()?;
                let of = context.current_cert().map(common_name).unwrap_or_default();
                let certificates: Vec<X509> =
                    context.chain().into_iter().flatten().map(ToOwned::to_owned).collect();
                Ok(if is_good {
                    Ok(certificates)
                } else {
                    Err(format!("{} ({of})", context.error().error_string()))
                })
            })
        });
        let certificates = found.map_err(not_verified)?.map_err(VerifyError::NotVerified)?;
        let chain = Arc::new(Chain::new(&certificates).map_err(VerifyError::NotVerified)?);
        let mut chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        if chains.len() >= CHAINS {
            chains.clear();
        }
        chains.insert(key, Arc::clone(&chain));
        Ok(chain)
    }

    /// Asks the revocation lists about who signed, as of `at`.
    pub fn not_revoked(&self, signed_by: &SignedBy, at: Moment) -> Result<(), VerifyError> {
        let chain = &signed_by.chain;
        let (lists, too_old) = match &self.crls {
            Some((crls, too_old)) => (crls.lists().map_err(|e| chain.not_known(e))?, *too_old),
            None => (Arc::default(), TooOld::Wait),
        };
        let said = {
            let mut remembered = chain.revocation.lock().unwrap_or_else(PoisonError::into_inner);
            match &*remembered {
                Some((generation, said)) if *generation == lists.generation => Arc::clone(said),
                _ => {
                    self.looks.fetch_add(1, Ordering::Relaxed);
                    let said = Arc::new(chain.revocation(&lists, self));
                    *remembered = Some((lists.generation, Arc::clone(&said)));
                    said
                }
            }
        };
        if let Some((since, which)) = &said.revoked
            && (*since <= at || !self.looks_back)
        {
            return Err(which.clone());
        }
        if let Some(missing) = &said.missing {
            return Err(VerifyError::NotKnown(missing.clone()));
        }
        for (_, not_known) in said.lists.iter().filter(|(until, _)| *until < at) {
            match too_old {
                TooOld::Wait => return Err(VerifyError::NotKnown(not_known.clone())),
                TooOld::Believe => {
                    self.warn_once(format!("{not_known}; believed all the same (pec_crl_too_old = believe)"))
                }
            }
        }
        Ok(())
    }

    /// Remarks on the rules of RFC 6109 s. 5.5 that the certificate of a provider of this name breaks,
    /// once. Those that decide about belief have been looked at: what is left is the CA's mistake, not the
    /// sender's.
    pub fn name_breaches(&self, signed_by: &SignedBy, provider_name: &str) {
        if self.is_first(format!("{} {provider_name}", signed_by.sha256)) {
            let breaches = breaches(&signed_by.certificate, provider_name).unwrap_or_else(|why| vec![why]);
            if !breaches.is_empty() {
                self.remark(&Remark::ProfileBroken {
                    provider: provider_name,
                    sha1: &signed_by.sha1,
                    breaches: breaches.join("; "),
                });
            }
        }
    }

    /// Says something once, not for each message.
    fn warn_once(&self, words: String) {
        if self.is_first(words.clone()) {
            self.remark(&Remark::PerhapsRevoked(&words));
        }
    }

    fn skipped_once(&self, url: &str) {
        if self.is_first(format!("skipped {url}")) {
            self.remark(&Remark::Skipped(url));
        }
    }

    fn remark(&self, remark: &Remark<'_>) {
        if let Some((crls, _)) = &self.crls {
            crls.remark(remark);
        }
    }

    fn is_first(&self, said: String) -> bool {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.len() >= CHAINS {
            warned.clear();
        }
        warned.insert(said)
    }

    fn store(&self, at: Moment) -> Result<X509Store, openssl::error::ErrorStack> {
        let mut store = X509StoreBuilder::new()?;
        for certificate in &self.certificates {
            store.add_cert(certificate.clone())?;
        }
        store.set_purpose(X509PurposeId::SMIME_SIGN)?;
        // An issuing CA may be configured without the root above it.
        store.set_flags(X509VerifyFlags::PARTIAL_CHAIN)?;
        let mut at_that_time = openssl::x509::verify::X509VerifyParam::new()?;
        at_that_time.set_time(at.unix());
        // No keys of 512 bits, no certificates signed with MD5 or SHA-1.
        at_that_time.set_auth_level(1);
        store.set_param(&at_that_time)?;
        Ok(store.build())
    }
}

impl Chain {
    /// These certificates, from the signer's to the believed CA's.
    fn new(certificates: &[X509]) -> Result<Self, String> {
        let (mut not_before, mut not_after) = (Moment::from_unix(i64::MIN), Moment::from_unix(i64::MAX));
        for certificate in certificates {
            not_before = not_before.max(moment(certificate.not_before())?);
            not_after = not_after.min(moment(certificate.not_after())?);
        }
        let link = |pair: &[X509]| match pair {
            [certificate, issuer] => {
                Some(Link { certificate: certificate.clone(), places: Places::of(certificate, issuer) })
            }
            _ => None,
        };
        let links = certificates.windows(2).filter_map(link).collect();
        Ok(Self { not_before, not_after, links, revocation: Mutex::default() })
    }

    fn not_known(&self, why: String) -> VerifyError {
        let common_name = self.links.first().map(|link| common_name(&link.certificate)).unwrap_or_default();
        VerifyError::NotKnown(NotKnown { common_name, why, wanted: Vec::new() })
    }

    /// What `lists` say. A certificate that names no place which can be asked is good; that, and each address
    /// that is skipped, the log says once.
    fn revocation(&self, lists: &Lists, cas: &TrustedCas) -> Revocation {
        let mut said = Revocation::default();
        for (place, link) in self.links.iter().enumerate() {
            let is_ca = place > 0;
            let name = common_name(&link.certificate);
            if link.places.http.is_empty() {
                let skipped = if link.places.skipped.is_empty() {
                    "none".to_owned()
                } else {
                    link.places.skipped.join(", ")
                };
                let sha1 = certificate_hash(&link.certificate, MessageDigest::sha1());
                cas.warn_once(format!(
                    "whether the certificate of {name} (SHA-1 {sha1}) is revoked can never be known: CRL \
                    addresses with http: none, others: {skipped}"
                ));
                continue;
            }
            link.places.skipped.iter().for_each(|url| cas.skipped_once(url));
            let lists: Vec<(&Place, &Arc<Crl>)> = link
                .places
                .http
                .iter()
                .filter_map(|place| Some((place, lists.get(place)?)))
                .filter(|(_, crl)| crl.covers(is_ca))
                .collect();
            for (place, crl) in &lists {
                let Some(since) = crl.revoked(&link.certificate) else { continue };
                // In a list that was there by then it counts, whatever date it has.
                let since = since.min(crl.this_update);
                let earlier = said.revoked.as_ref().is_none_or(|(other, _)| since < *other);
                if earlier {
                    said.revoked = Some((
                        since,
                        VerifyError::Revoked { common_name: name.clone(), since, url: place.url.clone() },
                    ));
                }
            }
            let not_known = |why: String| NotKnown {
                common_name: name.clone(),
                why,
                wanted: vec![link.places.http.clone()],
            };
            match lists.iter().max_by_key(|(_, crl)| crl.next_update) {
                Some((place, crl)) => {
                    let until = crl.next_update;
                    said.lists.push((
                        until,
                        not_known(format!("the CRL {} has been too old since {until}", place.url)),
                    ));
                }
                None => {
                    let urls: Vec<&str> = link.places.http.iter().map(|place| place.url.as_str()).collect();
                    let missing = not_known(format!("the CRL {} is not here", urls.join(" or ")));
                    let before = said
                        .missing
                        .get_or_insert_with(|| NotKnown { wanted: Vec::new(), ..missing.clone() });
                    if !before.wanted.is_empty() {
                        before.why = format!("{}, {}", before.why, missing.why);
                    }
                    before.wanted.extend(missing.wanted);
                }
            }
        }
        said
    }
}

/// The first of these certificates that the one signer names, by issuer and serial number or by
/// subjectKeyIdentifier. OpenSSL has verified the signature with it alone: what is judged of a certificate
/// afterwards is judged of this one. If a second one has the same name, it is not tried.
fn one_that_signed(
    content: &[u8],
    signature: &[u8],
    certificates: &StackRef<X509>,
) -> Result<X509, VerifyError> {
    let not_verified = |e: openssl::error::ErrorStack| VerifyError::NotVerified(reason(&e));
    let mut cms = CmsContentInfo::from_der(signature).map_err(|_| VerifyError::NotASignature)?;
    // The chain has its own check, which remembers.
    let flags =
        CMSOptions::BINARY | CMSOptions::DETACHED | CMSOptions::NOINTERN | CMSOptions::NO_SIGNER_CERT_VERIFY;
    for certificate in certificates {
        let mut alone = Stack::new().map_err(not_verified)?;
        alone.push(certificate.to_owned()).map_err(not_verified)?;
        // Who has signed is looked for before the content is hashed.
        match cms.verify(Some(&alone), None, Some(content), None, flags) {
            Ok(()) => return Ok(certificate.to_owned()),
            Err(e) if e.errors().iter().any(|e| e.reason() == Some(NOT_THIS_ONE)) => {}
            Err(e) => return Err(not_verified(e)),
        }
    }
    Err(VerifyError::NotASignature)
}

/// OpenSSL's words for a certificate that no signer names (CMS_R_SIGNER_CERTIFICATE_NOT_FOUND).
const NOT_THIS_ONE: &str = "signer certificate not found";

/// OpenSSL's own words, the first that say why.
fn reason(errors: &openssl::error::ErrorStack) -> String {
    let words = errors.errors().iter().rev().map(|e| match (e.reason(), e.data()) {
        (Some(reason), Some(data)) if !data.is_empty() => format!("{reason} ({data})"),
        (Some(reason), _) => reason.to_owned(),
        _ => "unknown error".to_owned(),
    });
    words.into_iter().next().unwrap_or_else(|| "unknown error".to_owned())
}
