//! What arrived? The table of RFC 6109 s. 2.2.2, as one function that reads from top to bottom.
//!
//! | signature verifies, signer in the directory | header, contents | what it is |
//! | --- | --- | --- |
//! | cannot be known now (revocation list) | | nothing yet: it waits |
//! | signer, or that he serves the sender's domain, not in the directory | | a newer directory is asked for once; then as below |
//! | no | | ordinary mail: anomaly, or refused where a mailbox takes certified mail only |
//! | yes | header at odds with certificate, daticert.xml unreadable or at odds with header (type, sender, identifiers) or SMTP envelope | damaged: anomaly, never refused |
//! | yes | envelope of a sender whom that provider serves, to its recipients | envelope: taken in charge |
//! | yes | receipt or notice | receipt: delivered |
//! | yes, ours | busta di anomalia | our own anomaly envelope: delivered, not wrapped again |

use std::collections::HashSet;
use std::ops::Range;

use bytes::Bytes;
use pec_core::address::Address;
use pec_core::clock::Moment;
use pec_core::daticert::{Daticert, DaticertError, MAX_BYTES, Tipo};
use pec_core::directory::signer::NoSigner;
use pec_core::directory::{Directory, Provider};
use pec_core::envelope::{EnvelopeError, SignedParts, claimed_type, contents, signed_parts};
use pec_core::header::Header;
use pec_core::notices::anomalia::Errore;
use pec_core::smime::verify::{NotKnown, SignedBy, TrustedCas, VerifyError};

/// What a message is.
#[derive(Debug)]
pub enum Arrived {
    /// A correct busta di trasporto.
    Busta {
        /// Its certification data.
        daticert: Daticert,
        /// Where what the provider signed lies in the body: this is the envelope, whatever surrounds it.
        content: Range<usize>,
        /// Who signed it.
        provider: Provider,
    },
    /// A correct receipt or notice.
    Ricevuta {
        /// Its certification data.
        daticert: Daticert,
        /// Where what the provider signed lies in the body.
        content: Range<usize>,
        /// Who signed it.
        provider: Provider,
    },
    /// A busta di anomalia that we signed.
    Anomalia,
    /// Nothing of the kind.
    Anomalous {
        /// Why.
        errore: Errore,
        /// The provider of the directory that signed it, if one did.
        provider: Option<Provider>,
        /// Whether a newer directory may know the signer, or that he serves the sender's domain.
        is_unknown: bool,
    },
    /// Nobody can say now, for want of a revocation list.
    NotKnown(NotKnown),
}

/// By what a message is judged.
#[derive(Clone, Copy)]
pub struct Judge<'a> {
    /// Who may vouch for a provider.
    pub cas: &'a TrustedCas,
    /// The providers.
    pub directory: &'a Directory,
    /// `pec_provider_name`.
    pub our_name: &'a str,
    /// The time.
    pub now: Moment,
}

/// Why a message does not count as signed by a provider.
enum Unsigned {
    Anomalous(Errore),
    /// A CA vouches for the signer, and the directory does not know him.
    Unknown(Errore),
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
        let (parts, signed_by, provider) = match self.signed(header, body) {
            Ok(signed) => signed,
            Err(Unsigned::Anomalous(errore)) => {
                return Arrived::Anomalous { errore, provider: None, is_unknown: false };
            }
            Err(Unsigned::Unknown(errore)) => {
                return Arrived::Anomalous { errore, provider: None, is_unknown: true };
            }
            Err(Unsigned::NotKnown(not_known)) => return Arrived::NotKnown(not_known),
        };
        self.decide_signed(header, body, parts, &signed_by, provider, reverse_path, recipients)
            .unwrap_or_else(|errore| Arrived::Anomalous {
                errore,
                provider: Some(provider.clone()),
                is_unknown: false,
            })
    }

    /// "Signature existence", "signature origin" and "signature validity": what is not signed by a provider
    /// is ordinary mail.
    fn signed(&self, header: &Header, body: &Bytes) -> Result<(SignedParts, SignedBy, &Provider), Unsigned> {
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
        let signer =
            self.directory.signer(self.cas, &body[parts.content.clone()], &parts.signature, self.now);
        let (signed_by, provider) = signer.map_err(|no_signer| match no_signer {
            NoSigner::NotBelieved(VerifyError::NotKnown(not_known)) => Unsigned::NotKnown(not_known),
            NoSigner::NotBelieved(e) => not_authentic(e.italiano(), e.to_string()),
            NoSigner::Unknown(SignedBy { common_name, sha1, .. }) => Unsigned::Unknown(Errore::new(
                format!(
                    "il certificato che ha firmato ({common_name}, SHA-1 {sha1}) non appartiene a un \
                    gestore di posta certificata"
                ),
                format!(
                    "the certificate that signed ({common_name}, SHA-1 {sha1}) is not in the directory \
                    of providers"
                ),
            )),
        })?;
        self.cas.name_breaches(&signed_by, &provider.name);
        Ok((parts, signed_by, provider))
    }

    /// "Formal correctness" of what a provider signed. The error says what is damaged.
    #[allow(clippy::too_many_arguments)]
    fn decide_signed(
        &self,
        header: &Header,
        body: &Bytes,
        parts: SignedParts,
        signed_by: &SignedBy,
        provider: &Provider,
        reverse_path: Option<&Address>,
        recipients: &[Address],
    ) -> Result<Arrived, Errore> {
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
                && provider.name == self.our_name
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
            return Ok(Arrived::Ricevuta { daticert, content, provider: provider.clone() });
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
        if self.directory.provider_of_domain(&mittente.domain()) != Some(provider) {
            let (name, domain) = (&provider.name, mittente.domain());
            let errore = Errore::new(
                format!("dominio mittente non di posta certificata: {domain} non è gestito da {name}"),
                format!("{name} does not serve the sender's domain, {domain}"),
            );
            return Ok(Arrived::Anomalous { errore, provider: Some(provider.clone()), is_unknown: true });
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
        Ok(Arrived::Busta { daticert, content, provider: provider.clone() })
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
