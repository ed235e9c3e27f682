//! Reading the signed messages of PEC providers, in both dialects of the network.
//!
//! Promise: only the outermost message is looked at; a PEC inside a PEC is content. Nothing is believed here:
//! who signed is for [`crate::smime::verify`], who may sign for [`crate::directory`].

use std::ops::Range;

use bytes::Bytes;

use crate::daticert::{Daticert, DaticertError, Tipo};
use crate::header::Header;
use crate::mime::{self, MimeError, Part};

/// More parts than any PEC message has: text, daticert.xml, postacert.eml and what a provider may add.
const MOST_PARTS: usize = 32;

/// A signature longer than this (bytes, still encoded) is none of a PEC message.
const SIGNATURE_MAX_BYTES: usize = 1024 * 1024;

/// Why a message cannot be read as a signed PEC message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// No `multipart/signed` with a boundary.
    #[error("the message is not signed")]
    NotSigned,
    /// A multipart that cannot be taken apart.
    #[error("{0}")]
    Mime(#[from] MimeError),
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

/// Takes a `multipart/signed` message apart (RFC 1847).
pub fn signed_parts(header: &Header, body: &[u8]) -> Result<SignedParts, EnvelopeError> {
    let media =
        header.content_type().filter(|m| m.essence == "multipart/signed").ok_or(EnvelopeError::NotSigned)?;
    let boundary = media.attribute("boundary").ok_or(EnvelopeError::NotSigned)?;
    let parts = mime::split(body, boundary, 2)?;
    let [content, signature] = &parts[..] else { return Err(EnvelopeError::Parts(parts.len())) };
    let signature = mime::part(body, signature.clone())?;
    let media = signature.header.content_type().map(|m| m.essence);
    if !matches!(media.as_deref(), Some("application/pkcs7-signature" | "application/x-pkcs7-signature"))
        || signature.body.len() > SIGNATURE_MAX_BYTES
    {
        return Err(EnvelopeError::NoSignature);
    }
    Ok(SignedParts { content: content.clone(), signature: mime::decoded(&signature, body)? })
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
    let media = entity
        .header
        .content_type()
        .filter(|m| m.essence == "multipart/mixed")
        .ok_or(EnvelopeError::Daticert(0))?;
    let boundary = media.attribute("boundary").ok_or(EnvelopeError::Daticert(0))?;
    let offset = entity.body.start;
    let mut parts = Vec::new();
    for range in mime::split(&body[entity.body.clone()], boundary, MOST_PARTS)? {
        let part = mime::part(body, range.start + offset..range.end + offset)?;
        part.header.ambiguous().map_or(Ok(()), |field| Err(MimeError::Ambiguous(field)))?;
        parts.push(part);
    }

    let found: Vec<_> = parts
        .iter()
        .filter(|p| is_named(p, "daticert.xml") && media_type(p).is_some_and(|m| m.ends_with("/xml")))
        .collect();
    let [daticert] = &found[..] else { return Err(EnvelopeError::Daticert(found.len())) };
    let daticert = Daticert::parse(&mime::decoded(daticert, body)?)?;
    if daticert.tipo != claimed {
        return Err(EnvelopeError::Contradiction {
            header: claimed.to_string(),
            daticert: daticert.tipo.to_string(),
        });
    }

    let originals: Vec<_> =
        parts.iter().filter(|p| media_type(p).as_deref() == Some("message/rfc822")).collect();
    if originals.len() > 1 {
        return Err(EnvelopeError::Originals(originals.len()));
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

fn media_type(part: &Part) -> Option<String> {
    part.header.content_type().map(|m| m.essence)
}

fn is_named(part: &Part, name: &str) -> bool {
    let by_type = part.header.content_type().and_then(|m| m.attribute("name").map(str::to_owned));
    let by_disposition =
        part.header.content_disposition().and_then(|d| d.attribute("filename").map(str::to_owned));
    [by_type, by_disposition].iter().flatten().any(|n| n.eq_ignore_ascii_case(name))
}
