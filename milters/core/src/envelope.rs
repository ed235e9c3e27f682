//! Reading the signed messages of PEC providers, in both dialects of the network.
//!
//! Promise: only the outermost message is looked at; a PEC inside a PEC is content. It is read literally, as
//! every mail program reads it ([`crate::literal`]), or not at all. Nothing is believed here: who signed is for
//! [`crate::smime::verify`], who may sign for [`crate::directory`].

use std::ops::Range;

use bytes::Bytes;

use crate::daticert::{Daticert, DaticertError, Tipo};
use crate::header::{ContentType, Header};
use crate::literal::{self, Media, NotLiteral};
use crate::mime::{self, MimeError, Part};

/// More parts than any PEC message has: text, daticert.xml, postacert.eml and what a provider may add.
const MOST_PARTS: usize = 32;

/// A signature longer than this (bytes, still encoded) is none of a PEC message.
const SIGNATURE_MAX_BYTES: usize = 1024 * 1024;

/// What a signature is called, as a part and in `protocol`.
const SIGNATURE_TYPES: [&str; 2] = ["application/pkcs7-signature", "application/x-pkcs7-signature"];

/// How deep multiparts lie in the content: providers write text and HTML as alternatives.
const DEEPEST: usize = 4;

const DATICERT: &str = "daticert.xml";
const POSTACERT: &str = "postacert.eml";

/// Why a message cannot be read as a signed PEC message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// No `multipart/signed` with a boundary.
    #[error("the message is not signed")]
    NotSigned,
    /// A multipart that cannot be taken apart.
    #[error("{0}")]
    Mime(#[from] MimeError),
    /// What programs read in different ways.
    #[error("{0}")]
    NotLiteral(#[from] NotLiteral),
    /// A part below another one that says to be the certification data or the original.
    #[error("a part called {0} lies where none may be")]
    Misplaced(&'static str),
    /// Not content and signature.
    #[error("a signed message has two parts, this one has {0}")]
    Parts(usize),
    /// The second part is no PKCS#7 signature.
    #[error("the second part is no S/MIME signature")]
    NoSignature,
    /// No daticert.xml, or several.
    #[error("{0} parts are called daticert.xml, one is needed")]
    Daticert(usize),
    /// daticert.xml cannot be read.
    #[error("{0}")]
    DaticertContent(#[from] DaticertError),
    /// Several originals: which of them is certified, nobody could say.
    #[error("{0} parts are messages, one is the original")]
    Originals(usize),
    /// An envelope without the original.
    #[error("the envelope carries no postacert.eml")]
    NoPostacert,
    /// The header says one thing, daticert.xml another.
    #[error("the header says {header:?} and daticert.xml says {daticert:?}")]
    Contradiction {
        /// What `X-Trasporto:` or `X-Ricevuta:` says.
        header: String,
        /// What `postacert/@tipo` says.
        daticert: String,
    },
}

impl EnvelopeError {
    /// The same in Italian.
    pub fn italiano(&self) -> String {
        match self {
            Self::NotSigned => "il messaggio non è firmato".to_owned(),
            Self::Mime(e) => e.italiano(),
            Self::NotLiteral(e) => e.italiano(),
            Self::Misplaced(name) => format!("una parte di nome {name} si trova dove non può stare"),
            Self::Parts(parts) => format!("un messaggio firmato ha due parti, questo ne ha {parts}"),
            Self::NoSignature => "la seconda parte non è una firma S/MIME".to_owned(),
            Self::Daticert(parts) => format!("le parti di nome daticert.xml sono {parts}, ne serve una"),
            Self::DaticertContent(e) => e.italiano(),
            Self::Originals(parts) => format!("{parts} parti sono messaggi, l'originale è uno solo"),
            Self::NoPostacert => "la busta non contiene postacert.eml".to_owned(),
            Self::Contradiction { header, daticert } => {
                format!("l'intestazione indica {header:?} e daticert.xml indica {daticert:?}")
            }
        }
    }
}

/// Where content and signature lie in a `multipart/signed` body.
#[derive(Debug)]
pub struct SignedParts {
    /// The signed bytes.
    pub content: Range<usize>,
    /// The CMS structure, decoded.
    pub signature: Vec<u8>,
}

/// What a PEC message says it is, by its header alone: `X-Trasporto:` comes first, because envelopes carry
/// `X-Riferimento-Message-ID:` too. `None` for anything that claims to be no PEC message.
pub fn claimed_type(header: &Header) -> Option<Tipo> {
    if let Some(trasporto) = header.text("X-Trasporto") {
        return trasporto.eq_ignore_ascii_case("posta-certificata").then_some(Tipo::PostaCertificata);
    }
    header
        .text("X-Ricevuta")?
        .to_ascii_lowercase()
        .parse()
        .ok()
        .filter(|tipo| *tipo != Tipo::PostaCertificata)
}

/// Takes a `multipart/signed` message apart (RFC 1847). Header, preamble, epilogue and the part with the
/// signature are anybody's who has the message: nothing of them may be shown for what is signed.
pub fn signed_parts(header: &Header, body: &[u8]) -> Result<SignedParts, EnvelopeError> {
    if header.content_type().is_none_or(|m| m.essence != "multipart/signed") {
        return Err(EnvelopeError::NotSigned);
    }
    literal::without_strays(header)?;
    let media = Media::of(header)?;
    if media.parameter("protocol").is_none_or(|protocol| !SIGNATURE_TYPES.contains(&protocol)) {
        return Err(NotLiteral::Parameter("protocol").into());
    }
    // Without it, or with another version, some programs see no parts.
    if literal::sole(header, "MIME-Version")?.text() != "1.0" {
        return Err(NotLiteral::Field("MIME-Version").into());
    }
    let boundary = media.boundary()?;
    let parts = literal::split(body, 0..body.len(), boundary, 2).map_err(|e| match e {
        NotLiteral::TooManyParts(_) => EnvelopeError::Parts(3),
        e => e.into(),
    })?;
    let [content, signature] = &parts[..] else { return Err(EnvelopeError::Parts(parts.len())) };
    let signature = mime::part(body, signature.clone())?;
    if !is_signature(&signature)? || signature.body.len() > SIGNATURE_MAX_BYTES {
        return Err(EnvelopeError::NoSignature);
    }
    Ok(SignedParts { content: content.clone(), signature: mime::decoded(&signature, body)? })
}

/// Whether a part is a signature, and shows itself as nothing else.
fn is_signature(part: &Part) -> Result<bool, NotLiteral> {
    let media = Media::of(&part.header)?;
    if let Some(field) = part.header.ambiguous() {
        return Err(NotLiteral::Field(field));
    }
    let names = names(part);
    let is_called_so = names.iter().all(|name| name.to_ascii_lowercase().ends_with(".p7s"));
    Ok(SIGNATURE_TYPES.contains(&media.essence.as_str()) && is_called_so)
}

/// What is inside the signed content.
#[derive(Debug)]
pub struct Contents {
    /// The certification data.
    pub daticert: Daticert,
    /// postacert.eml: a slice of the body, or decoded where a provider encoded it.
    pub postacert: Option<Bytes>,
}

/// Reads the certification data and finds the original in the signed content of `body`; `claimed` is what the
/// header says.
pub fn contents(body: &Bytes, content: Range<usize>, claimed: Tipo) -> Result<Contents, EnvelopeError> {
    let entity = mime::part(body, content)?;
    if let Some(field) = entity.header.ambiguous() {
        return Err(MimeError::Ambiguous(field).into());
    }
    let media = Media::of(&entity.header).map_err(|e| match e {
        NotLiteral::Missing(_) => EnvelopeError::Daticert(0),
        e => e.into(),
    })?;
    if media.essence != "multipart/mixed" {
        return Err(EnvelopeError::Daticert(0));
    }
    let mut parts = Vec::new();
    for range in literal::split(body, entity.body, media.boundary()?, MOST_PARTS)? {
        let part = mime::part(body, range)?;
        part.header.ambiguous().map_or(Ok(()), |field| Err(MimeError::Ambiguous(field)))?;
        parts.push(part);
    }
    for part in &parts {
        nothing_below(body, part, media.boundary()?, 0)?;
    }

    let found: Vec<_> = parts.iter().filter(|p| is_named(p, DATICERT)).collect();
    let [daticert] = &found[..] else { return Err(EnvelopeError::Daticert(found.len())) };
    if media_type(daticert).is_none_or(|m| !m.ends_with("/xml")) {
        return Err(EnvelopeError::Daticert(0));
    }
    let daticert = Daticert::parse(&mime::decoded(daticert, body)?)?;
    if daticert.tipo != claimed {
        return Err(EnvelopeError::Contradiction {
            header: claimed.to_string(),
            daticert: daticert.tipo.to_string(),
        });
    }

    let is_message = |part: &Part| media_type(part).as_deref() == Some("message/rfc822");
    let originals: Vec<_> = parts.iter().filter(|p| is_message(p) || is_named(p, POSTACERT)).collect();
    if originals.len() > 1 {
        return Err(EnvelopeError::Originals(originals.len()));
    }
    if originals.iter().any(|part| !is_message(part)) {
        return Err(EnvelopeError::Misplaced(POSTACERT));
    }
    let postacert = match originals.first() {
        Some(part) if mime::is_encoded(&part.header) => Some(mime::decoded(part, body)?.into()),
        Some(part) => Some(body.slice(part.body.clone())),
        None => None,
    };
    if daticert.tipo == Tipo::PostaCertificata && postacert.is_none() {
        return Err(EnvelopeError::NoPostacert);
    }
    Ok(Contents { daticert, postacert })
}

/// What lies in a part that is no message: multiparts that every program reads alike, without certification data
/// and without another original.
fn nothing_below(body: &[u8], part: &Part, above: &str, depth: usize) -> Result<(), EnvelopeError> {
    if media_type(part).is_none_or(|m| !m.starts_with("multipart/")) {
        return Ok(());
    }
    if depth == DEEPEST {
        return Err(MimeError::TooDeep.into());
    }
    let media = Media::of(&part.header)?;
    let boundary = media.boundary()?;
    // Programs that take the beginning of a delimiter for it would mix them up.
    if boundary.starts_with(above) || above.starts_with(boundary) {
        return Err(NotLiteral::LooksLikePart.into());
    }
    for range in literal::split(body, part.body.clone(), boundary, MOST_PARTS)? {
        let below = mime::part(body, range)?;
        below.header.ambiguous().map_or(Ok(()), |field| Err(MimeError::Ambiguous(field)))?;
        for name in [DATICERT, POSTACERT] {
            if is_named(&below, name) {
                return Err(EnvelopeError::Misplaced(name));
            }
        }
        nothing_below(body, &below, boundary, depth + 1)?;
    }
    Ok(())
}

fn media_type(part: &Part) -> Option<String> {
    part.header.content_type().map(|m| m.essence)
}

/// All names that a part has, in whatever field.
fn names(part: &Part) -> Vec<String> {
    let of = |media: Option<ContentType>, attribute: &str| -> Vec<String> {
        let media = media.iter().flat_map(ContentType::attributes);
        media.filter(|(name, _)| *name == attribute).map(|(_, value)| value.to_owned()).collect()
    };
    [of(part.header.content_type(), "name"), of(part.header.content_disposition(), "filename")].concat()
}

/// Whether a part is called so by any of its fields, or may be by some program's reading.
fn is_named(part: &Part, name: &str) -> bool {
    let is_it = |value: &str| value.trim().eq_ignore_ascii_case(name);
    let stem = name.split('.').next().unwrap_or(name);
    let fields = ["Content-Type", "Content-Disposition", "Content-Description"];
    names(part).iter().any(|value| is_it(value))
        || fields
            .iter()
            .flat_map(|field| part.header.all(field))
            .any(|field| field.text().to_ascii_lowercase().replace(['"', ' '], "").contains(stem))
}
