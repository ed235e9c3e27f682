//! Busta di anomalia: what arrives and is no correct certified mail, put into an envelope that says so (RFC
//! 6109 s. 3.2.2).
//!
//! Promise: it certifies nothing. It carries no daticert.xml, and the message inside is every byte that
//! arrived.

use super::testo::{Lingua, Testo, il_giorno, on_the_day};
use super::{Issuer, Notice, assembled, per_conto_di, subject};
use crate::clock::Moment;
use crate::header::{Field, Header};
use crate::message::Body;
use crate::showable::quotable;
use crate::smime::sign::SignError;

/// What the envelope inherits as it is.
const INHERITED: [&str; 6] = ["Received", "To", "Cc", "Return-Path", "Message-ID", "Reply-To"];

/// Recipients that the text names at most.
const MOST_NAMED: usize = 100;

/// Characters of an error.
const LONGEST_ERROR: usize = 1000;

/// Why a message is not delivered as certified mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errore {
    /// In Italian.
    pub italiano: String,
    /// In English.
    pub inglese: String,
}

impl Errore {
    /// The error in both languages.
    pub fn new(italiano: impl Into<String>, inglese: impl Into<String>) -> Self {
        // It repeats what somebody else wrote, at whatever length.
        let cut = |mut text: String| {
            if let Some((end, _)) = text.char_indices().nth(LONGEST_ERROR) {
                text.replace_range(end.., "...");
            }
            text
        };
        Self { italiano: cut(italiano.into()), inglese: cut(inglese.into()) }
    }
}

/// The envelope around the message with this header and body, which arrived at `moment` from `reverse_path`
/// (empty: the null path). `seed` is fresh and secret: the boundaries derive from it, and the message inside
/// is anybody's.
pub fn anomalia(
    issuer: Issuer<'_>,
    original: &Header,
    body: Body,
    reverse_path: &str,
    errore: &Errore,
    moment: Moment,
    seed: &str,
) -> Result<Notice, SignError> {
    let mittente = match original.addresses("From").as_deref() {
        Ok([from]) => from.to_string(),
        _ if reverse_path.is_empty() => "MAILER-DAEMON".to_owned(),
        _ => reverse_path.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).collect(),
    };
    let mut header = Header::default();
    for field in original.fields().iter().filter(|f| INHERITED.iter().any(|name| f.is(name))) {
        header.push(field.clone());
    }
    header.push(Field::written("Date", &moment.rfc5322()));
    header.push(per_conto_di(issuer, &mittente));
    if original.first("Reply-To").is_none() && !reverse_path.is_empty() {
        header.push(Field::written("Reply-To", &mittente));
    }
    let oggetto = original.subject().unwrap_or_default();
    header.push(subject("ANOMALIA MESSAGGIO:", &oggetto));
    header.push(Field::written("X-Trasporto", "errore"));

    let mut inside = Body::from_bytes([original.to_bytes(), b"\r\n".to_vec()].concat());
    inside.append(body);
    assembled(
        issuer,
        header,
        &testo(original, &quotable(&oggetto), &quotable(&mittente), errore, moment),
        None,
        Some(inside),
        seed,
        moment,
    )
}

fn testo(original: &Header, oggetto: &str, mittente: &str, errore: &Errore, moment: Moment) -> Testo {
    // Whom the header names, not whom the SMTP envelope does: a blind copy stays blind.
    let named: Vec<String> = ["To", "Cc"]
        .iter()
        .filter_map(|name| original.addresses(name).ok())
        .flatten()
        .map(|a| a.to_string())
        .collect();
    let indirizzati = || {
        let others = named.len().saturating_sub(MOST_NAMED);
        named.iter().take(MOST_NAMED).cloned().chain((others > 0).then(|| format!("(+ {others})")))
    };
    let italiano = [
        format!("{} è stato ricevuto", il_giorno(moment)),
        format!("il messaggio \"{oggetto}\" proveniente da \"{mittente}\""),
        "ed indirizzato a:".to_owned(),
    ]
    .into_iter()
    .chain(indirizzati())
    .chain([
        "Tali dati non sono stati certificati per il seguente errore:".to_owned(),
        errore.italiano.clone(),
        "Il messaggio originale è incluso in allegato.".to_owned(),
    ]);
    let inglese = [
        format!("{} the message", on_the_day(moment)),
        format!("\"{oggetto}\" from \"{mittente}\""),
        "and addressed to:".to_owned(),
    ]
    .into_iter()
    .chain(indirizzati())
    .chain([
        "was received. The data has not been certified due to the following error:".to_owned(),
        errore.inglese.clone(),
        "The original message is attached.".to_owned(),
    ]);
    Testo {
        italiano: Lingua::new("Anomalia nel messaggio", italiano),
        inglese: Lingua::new("Message anomaly", inglese),
    }
}
