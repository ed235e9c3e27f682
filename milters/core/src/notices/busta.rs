//! Busta di trasporto: the envelope in which the Access Point sends the original on (RFC 6109 s. 3.1.5).

use super::testo::{
    Lingua, Testo, destinatari, identificativo, il_giorno, message_identifier, oggetto, on_the_day,
};
use super::{Issuer, Notice, per_conto_di, signed, subject};
use crate::daticert::Daticert;
use crate::header::{Field, Header};
use crate::message::Body;
use crate::showable::quotable;
use crate::smime::sign::SignError;

/// What the envelope inherits from the original as it is (RFC 6109 s. 2.1.1.2).
const INHERITED: [&str; 4] = ["Received", "To", "Cc", "Reply-To"];

/// The envelope around the original with this header and body. `received` is the Access Point's own
/// `Received:`, which stands on top of postacert.eml; Postfix writes the same one on top of the envelope.
pub fn busta(
    issuer: Issuer<'_>,
    daticert: &Daticert,
    original: &Header,
    body: Body,
    received: Field,
) -> Result<Notice, SignError> {
    let mut header = Header::default();
    for field in original.fields().iter().filter(|f| INHERITED.iter().any(|name| f.is(name))) {
        header.push(field.clone());
    }
    header.push(Field::written("Date", &daticert.data.rfc5322()));
    header.push(per_conto_di(issuer, &daticert.mittente));
    if original.first("Reply-To").is_none() {
        header.push(Field::written("Reply-To", &daticert.mittente));
    }
    header.push(Field::written("Message-ID", &format!("<{}>", daticert.identificativo)));
    header.push(subject("POSTA CERTIFICATA:", daticert.oggetto.as_deref().unwrap_or_default()));
    header.push(Field::written("X-Trasporto", "posta-certificata"));
    if let Some(tipo) = daticert.ricevuta {
        header.push(Field::written("X-TipoRicevuta", tipo.as_str()));
    }
    if let Some(msgid) = &daticert.msgid {
        header.push(Field::written("X-Riferimento-Message-ID", msgid));
    }
    let postacert = postacert(daticert, original, body, received);
    signed(issuer, header, &testo(daticert), daticert, Some(postacert), &daticert.identificativo)
}

/// The original as the envelope carries it: the Access Point's `Received:` on top, the PEC identifier in
/// place of the Message-ID (or after the last field, where there was none), the sender's Message-ID as the
/// last field (RFC 6109 s. 2.2.1). Every other byte is the sender's.
fn postacert(daticert: &Daticert, original: &Header, body: Body, received: Field) -> Body {
    let mut header = Header::default();
    header.push(received);
    let identifier = Field::written("Message-ID", &format!("<{}>", daticert.identificativo));
    let mut replaced = false;
    for field in original.fields() {
        if field.is("Message-ID") && !replaced {
            header.push(identifier.clone());
            replaced = true;
        } else {
            header.push(field.clone());
        }
    }
    if !replaced {
        header.push(identifier);
    }
    if let Some(msgid) = &daticert.msgid {
        header.push(Field::written("X-Riferimento-Message-ID", msgid));
    }
    let mut postacert = Body::from_bytes([header.to_bytes(), b"\r\n".to_vec()].concat());
    postacert.append(body);
    postacert
}

fn testo(busta: &Daticert) -> Testo {
    let (oggetto, mittente) = (oggetto(busta), quotable(&busta.mittente));
    let italiano = [
        format!("{} il messaggio", il_giorno(busta.data)),
        format!("\"{oggetto}\" è stato inviato da \"{mittente}\""),
        "indirizzato a:".to_owned(),
    ]
    .into_iter()
    .chain(destinatari(busta))
    .chain(["Il messaggio originale è incluso in allegato.".to_owned(), identificativo(busta)]);
    let inglese = [
        format!("{} the message", on_the_day(busta.data)),
        format!("\"{oggetto}\" was sent by \"{mittente}\""),
        "and addressed to:".to_owned(),
    ]
    .into_iter()
    .chain(destinatari(busta))
    .chain(["The original message is included as an attachment.".to_owned(), message_identifier(busta)]);
    Testo {
        italiano: Lingua::new("Messaggio di posta certificata", italiano),
        inglese: Lingua::new("Certified mail message", inglese),
    }
}
