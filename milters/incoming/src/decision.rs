//! What arrived? The table of RFC 6109 s. 2.2.2, as one function that reads from top to bottom.
//!
//! | signature verifies, signer in the directory | header, contents | what it is |
//! | --- | --- | --- |
//! | cannot be known now (revocation list) | | nothing yet: it waits |
//! | signer, or that he serves the sender's domain, not in the directory | | a newer directory is asked for once, then those that were in force since the envelope was made; if a record has a bad value, it waits; then as below |
//! | no | | ordinary mail: anomaly, or refused where a mailbox takes certified mail only |
//! | yes | header at odds with certificate, daticert.xml unreadable or at odds with header (type, sender, identifiers) or SMTP envelope | damaged: anomaly, never refused |
//! | yes | envelope of a sender whom that provider serves, to its recipients | envelope: taken in charge |
//! | yes | receipt or notice | receipt: `standing.rs` says what it counts for |
//! | yes, ours | busta di anomalia | our own anomaly envelope: delivered, not wrapped again |

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use pec_core::address::Address;
use pec_core::clock::Moment;
use pec_core::daticert::{Daticert, DaticertError, MAX_BYTES, Tipo};
use pec_core::directory::signer::NoSigner;
use pec_core::directory::speaker::Speaker;
use pec_core::directory::{Attribute, Directory, Provider};
use pec_core::envelope::{EnvelopeError, SignedParts, claimed_type, contents, signed_parts};
use pec_core::header::Header;
use pec_core::notices::anomalia::Errore;
use pec_core::smime::verify::{NotKnown, SignedBy, TrustedCas, VerifyError};

use crate::standing::lacks_domains;

/// What a message is.
#[derive(Debug)]
pub enum Arrived {
    /// A correct busta di trasporto.
    Busta {
        /// Its certification data.
        daticert: Daticert,
        /// Where what the provider signed lies in the body: this is the envelope, whatever surrounds it.
        content: Range<usize>,
        /// The record by which its provider serves the sender.
        provider: Provider,
    },
    /// A correct receipt or notice.
    Ricevuta {
        /// Its certification data.
        daticert: Daticert,
        /// Where what the provider signed lies in the body.
        content: Range<usize>,
        /// Who signed it.
        speaker: Speaker,
    },
    /// A busta di anomalia that we signed.
    Anomalia,
    /// Nothing of the kind.
    Anomalous {
        /// Why.
        errore: Errore,
        /// The provider of the directory that signed it, if one did: its name there.
        provider: Option<String>,
        /// What another directory may know.
        unknown: Option<Unknown>,
    },
    /// Nobody can say now, for want of a revocation list.
    NotKnown(NotKnown),
}

/// A part of a directory that is in force no longer.
#[derive(Debug)]
pub struct Former {
    /// Until when it was.
    pub until: Moment,
    /// The part.
    pub directory: Arc<Directory>,
}

/// What the directory does not know: a signer, or that he serves the sender's domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unknown {
    /// That domain, or the hashes of the signer's certificate, in lower case.
    pub what: Vec<String>,
    /// Why it may be so all the same, and the message waits: a record has a bad value.
    pub waits: Option<String>,
}

/// By what a message is judged.
#[derive(Clone, Copy)]
pub struct Judge<'a> {
    /// Who may vouch for a provider.
    pub cas: &'a TrustedCas,
    /// The providers.
    pub directory: &'a Directory,
    /// What of former directories is about it.
    pub formerly: &'a [Former],
    /// `pec_provider_name`.
    pub our_name: &'a str,
    /// The time.
    pub now: Moment,
}

/// A provider that signed.
struct Signer {
    speaker: Speaker,
    /// Until when its certificate was in the directory, if it is no longer.
    until: Option<Moment>,
}

/// Why a message does not count as signed by a provider.
enum Unsigned {
    Anomalous(Errore),
    /// A CA vouches for the signer, and the directory does not know him.
    Unknown(Errore, Vec<String>),
    NotKnown(NotKnown),
}

/// Fields by which mail programs show a message: twice in a header, they show one thing to us and another to
/// the reader.
const SINGLE_FIELDS: [&str; 9] = [
    "From",
    "To",
    "Subject",
    "Message-ID",
    "Content-Type",
    "Content-Transfer-Encoding",
    "X-Trasporto",
    "X-Ricevuta",
    "X-Riferimento-Message-ID",
];

/// What stands in an envelope's `From:` before its sender: in the network, and in RFC 6109 s. 3.1.5.
const ON_BEHALF_OF: [&str; 2] = ["per conto di:", "on behalf of:"];

/// Whether a message with this header may be signed: then its body is needed in one piece.
pub fn may_be_signed(header: &Header) -> bool {
    header.content_type().is_some_and(|m| m.essence == "multipart/signed")
        || header.all("Content-Type").any(|f| f.text().to_ascii_lowercase().contains("multipart/signed"))
}

impl Judge<'_> {
    /// Judges the message with this header and body that came from `reverse_path` (`None`: the null path) for
    /// `recipients`.
    pub fn decide(
        self,
        header: &Header,
        body: &Bytes,
        reverse_path: Option<&Address>,
        recipients: &[Address],
    ) -> Arrived {
        let (parts, signed_by, signer) = match self.signed(header, body) {
            Ok(signed) => signed,
            Err(Unsigned::Anomalous(errore)) => {
                return Arrived::Anomalous { errore, provider: None, unknown: None };
            }
            Err(Unsigned::Unknown(errore, what)) => {
                let unknown = Some(Unknown { what, waits: self.perhaps_known(header) });
                return Arrived::Anomalous { errore, provider: None, unknown };
            }
            Err(Unsigned::NotKnown(not_known)) => return Arrived::NotKnown(not_known),
        };
        let name = signer.speaker.name().to_owned();
        self.decide_signed(header, body, parts, &signed_by, signer, reverse_path, recipients)
            .unwrap_or_else(|errore| Arrived::Anomalous { errore, provider: Some(name), unknown: None })
    }

    /// Why what says to be certified may be so, though no record has its certificate.
    fn perhaps_known(self, header: &Header) -> Option<String> {
        if header.text("X-Trasporto").is_none() && header.text("X-Ricevuta").is_none() {
            return None;
        }
        let record = self.directory.providers().iter().find(|p| p.lacks(Attribute::Certificate))?;
        let title = record.title();
        Some(format!(
            "no record of pec_directory_file has the certificate that signed it, and that of {title} has a bad \
             value; `pecctl check` names the value"
        ))
    }

    /// "Signature existence", "signature origin" and "signature validity": what is not signed by a provider
    /// is ordinary mail.
    fn signed(&self, header: &Header, body: &Bytes) -> Result<(SignedParts, SignedBy, Signer), Unsigned> {
        let not_authentic = |perche: String, why: String| {
            Unsigned::Anomalous(Errore::new(
                format!("Firma non presente o non autentica ({perche})"),
                format!("Signature missing or not authentic ({why})"),
            ))
        };
        let parts = match signed_parts(header, body) {
            Ok(parts) => parts,
            Err(EnvelopeError::NotSigned) => {
                return Err(Unsigned::Anomalous(Errore::new(
                    "Firma non presente o non autentica: il messaggio non proviene da un gestore di posta \
                    certificata",
                    "Signature missing or not authentic: the message does not come from a certified mail \
                    provider",
                )));
            }
            Err(e) => return Err(not_authentic(e.italiano(), e.to_string())),
        };
        let signer_in = |directory: &Directory| {
            directory.signer(self.cas, &body[parts.content.clone()], &parts.signature, self.now)
        };
        let (mut signer, mut until) = (signer_in(self.directory), None);
        for former in self.formerly {
            if matches!(signer, Err(NoSigner::Unknown(_))) {
                (signer, until) = (signer_in(&former.directory), Some(former.until));
            }
        }
        let (signed_by, speaker) = signer.map_err(|no_signer| match no_signer {
            NoSigner::NotBelieved(VerifyError::NotKnown(not_known)) => Unsigned::NotKnown(not_known),
            NoSigner::NotBelieved(e) => not_authentic(e.italiano(), e.to_string()),
            NoSigner::Unknown(SignedBy { common_name, sha1, sha256, .. }) => Unsigned::Unknown(
                Errore::new(
                    format!(
                        "il certificato che ha firmato ({common_name}, SHA-1 {sha1}) non appartiene a un \
                        gestore di posta certificata"
                    ),
                    format!(
                        "the certificate that signed ({common_name}, SHA-1 {sha1}) is not in the directory \
                        of providers"
                    ),
                ),
                [sha1, sha256].map(|hash| hash.to_ascii_lowercase()).into(),
            ),
        })?;
        self.cas.name_breaches(&signed_by, speaker.name());
        Ok((parts, signed_by, Signer { speaker, until }))
    }

    /// "Formal correctness" of what a provider signed. The error says what is damaged.
    #[allow(clippy::too_many_arguments)]
    fn decide_signed(
        &self,
        header: &Header,
        body: &Bytes,
        parts: SignedParts,
        signed_by: &SignedBy,
        signer: Signer,
        reverse_path: Option<&Address>,
        recipients: &[Address],
    ) -> Result<Arrived, Errore> {
        let Signer { speaker, until } = signer;
        if let Some(field) = SINGLE_FIELDS.iter().find(|name| header.all(name).count() > 1) {
            return Err(Errore::new(
                format!("il campo {field} è presente più volte"),
                format!("the {field}: field stands more than once"),
            ));
        }
        let encoding = header.transfer_encoding();
        if !matches!(encoding.as_str(), "" | "7bit" | "8bit" | "binary") {
            return Err(Errore::new(
                format!(
                    "il campo Content-Transfer-Encoding ({encoding}) non è ammesso per un messaggio \
                    firmato"
                ),
                format!(
                    "the Content-Transfer-Encoding: field ({encoding}) is not allowed for a signed message"
                ),
            ));
        }
        if header.text("X-Trasporto").is_some() && header.text("X-Ricevuta").is_some() {
            return Err(Errore::new(
                "sono presenti sia X-Trasporto sia X-Ricevuta",
                "there are both X-Trasporto: and X-Ricevuta:",
            ));
        }
        match header.addresses("From").as_deref() {
            Ok([from]) if signed_by.addresses.contains(&from.key()) => {}
            _ => {
                let (from, addresses) =
                    (header.text("From").unwrap_or_default(), signed_by.addresses.join(", "));
                return Err(Errore::new(
                    format!("il campo From ({from}) non è l'indirizzo del certificato ({addresses})"),
                    format!("the From: field ({from}) is not the address in the certificate ({addresses})"),
                ));
            }
        }
        let Some(claimed) = claimed_type(header) else {
            let is_anomalia = header.text("X-Trasporto").is_some_and(|t| t.eq_ignore_ascii_case("errore"));
            // The header is anybody's; what we signed as a busta di anomalia has no daticert.xml.
            if is_anomalia
                && speaker.records().iter().any(|record| record.name == self.our_name)
                && matches!(
                    contents(body, parts.content, Tipo::PostaCertificata),
                    Err(EnvelopeError::Daticert(0))
                )
            {
                return Ok(Arrived::Anomalia);
            }
            return Err(Errore::new(
                "il messaggio è firmato da un gestore ma non è né una busta di trasporto né una ricevuta",
                "the message is signed by a provider but is neither an envelope nor a receipt",
            ));
        };
        let unreadable = |e: EnvelopeError| {
            Errore::new(
                format!("formato non conforme alle regole tecniche ({})", e.italiano()),
                e.to_string(),
            )
        };
        let content = parts.content.clone();
        let contents = contents(body, parts.content, claimed).map_err(unreadable)?;
        let daticert = contents.daticert;
        if let Some(until) = until.filter(|until| *until < daticert.data) {
            let name = speaker.name();
            return Err(Errore::new(
                format!("il certificato che ha firmato non appartiene più a {name} dal {until}"),
                format!("the certificate that signed is not in the directory of providers since {until}"),
            ));
        }
        if let (Some(reference), Some(msgid)) = (header.text("X-Riferimento-Message-ID"), &daticert.msgid)
            && bare(&reference) != bare(msgid)
        {
            return Err(Errore::new(
                format!(
                    "il campo X-Riferimento-Message-ID indica {reference}, e daticert.xml indica {msgid}"
                ),
                format!(
                    "the X-Riferimento-Message-ID: field says {reference}, and daticert.xml says {msgid}"
                ),
            ));
        }
        if claimed != Tipo::PostaCertificata {
            return Ok(Arrived::Ricevuta { daticert, content, speaker });
        }

        // Every notice about it repeats these data in our own writing, which may be longer, and from that it
        // is made.
        let rewritten = daticert.to_xml().len();
        if rewritten > MAX_BYTES {
            return Err(unreadable(DaticertError::TooLarge(rewritten).into()));
        }
        let Some(mittente) = Address::parse(&daticert.mittente) else {
            let mittente = &daticert.mittente;
            return Err(Errore::new(
                format!("il mittente in daticert.xml ({mittente}) non è un indirizzo di posta"),
                format!("the sender in daticert.xml ({mittente}) is no mail address"),
            ));
        };
        if reverse_path != Some(&mittente) {
            let reverse_path = reverse_path.map_or("<>", Address::as_str);
            return Err(Errore::new(
                format!("il messaggio è stato inviato da {reverse_path}, e daticert.xml indica {mittente}"),
                format!("it comes from {reverse_path}, and its daticert.xml is of {mittente}"),
            ));
        }
        // The provider certifies whom the sender wrote to; whoever else gets hold of the envelope cannot have
        // its delivery certified.
        let addressed: HashSet<Address> =
            daticert.destinatari.iter().filter_map(|d| Address::parse(&d.indirizzo)).collect();
        if let Some(stranger) = recipients.iter().find(|r| !addressed.contains(r)) {
            return Err(Errore::new(
                format!(
                    "il messaggio non è stato inviato a {stranger}: daticert.xml non indica questo \
                    destinatario"
                ),
                format!("it was not sent to {stranger}: daticert.xml does not name this recipient"),
            ));
        }
        let (message_id, identificativo) =
            (header.text("Message-ID").unwrap_or_default(), &daticert.identificativo);
        if bare(&message_id) != bare(identificativo) {
            return Err(Errore::new(
                format!(
                    "il campo Message-ID ({message_id}) non è l'identificativo in daticert.xml \
                    ({identificativo})"
                ),
                format!(
                    "the Message-ID: field ({message_id}) is not the identifier in daticert.xml \
                    ({identificativo})"
                ),
            ));
        }
        let name = header.display_name("From").unwrap_or_default();
        if on_behalf_of(&name).as_ref() != Some(&mittente) {
            return Err(Errore::new(
                format!("il campo From ({name}) non indica il mittente in daticert.xml ({mittente})"),
                format!("the From: field ({name}) does not name the sender in daticert.xml ({mittente})"),
            ));
        }
        // Last: a directory may know another answer, and what is wrong with the message stays.
        let domain = mittente.domain();
        let then = self.formerly.iter().filter(|former| former.until >= daticert.data);
        let mut directories = std::iter::once(self.directory).chain(then.map(|former| &*former.directory));
        // A certificate that has left the directory is in no record by which its provider would serve.
        let of_former = until.and_then(|_| speaker.serves(self.directory, &domain));
        let Some(provider) = of_former.or_else(|| directories.find_map(|d| speaker.signs_for(d, &domain)))
        else {
            let name = speaker.name();
            let errore = Errore::new(
                format!("dominio mittente non di posta certificata: {domain} non è gestito da {name}"),
                format!("{name} does not serve the sender's domain, {domain}"),
            );
            let lacks = speaker.records().iter().any(|record| record.lacks(Attribute::Domain));
            let unknown = Some(Unknown { what: vec![domain], waits: lacks.then(|| lacks_domains(name)) });
            return Ok(Arrived::Anomalous { errore, provider: Some(name.to_owned()), unknown });
        };
        let provider = provider.clone();
        Ok(Arrived::Busta { daticert, content, provider })
    }
}

/// An identifier without what may be written around it or in it: brackets, folds.
fn bare(identifier: &str) -> String {
    identifier.split_whitespace().collect::<String>().trim_start_matches('<').trim_end_matches('>').to_owned()
}

/// For whom an envelope comes, by the name in its `From:`.
fn on_behalf_of(name: &str) -> Option<Address> {
    let prefix = ON_BEHALF_OF
        .into_iter()
        .find(|prefix| name.get(..prefix.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(prefix)))?;
    Address::parse(name[prefix.len()..].trim())
}
