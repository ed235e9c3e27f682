//! Ricevuta di presa in carico: tells the sender's provider that its envelope was taken (RFC 6109 s. 3.2.1).

use super::testo::{Lingua, Testo, identificativo, il_giorno, message_identifier, oggetto, on_the_day};
use super::{Issuer, Notice, receipt_header, signed};
use crate::clock::Moment;
use crate::daticert::{Daticert, Tipo};
use crate::showable::quotable;
use crate::smime::sign::SignError;

/// The receipt to `to` (the other provider's `mailReceipt`) for the copy of the envelope that came for
/// `ricezione`.
pub fn presa_in_carico(
    issuer: Issuer<'_>,
    busta: &Daticert,
    to: &str,
    ricezione: &[String],
    moment: Moment,
    message_id: &str,
) -> Result<Notice, SignError> {
    let mut daticert = busta.about_same_message(Tipo::PresaInCarico, issuer.provider_name, moment);
    daticert.ricezione = ricezione.to_vec();
    let header = receipt_header(issuer, busta, to, moment, message_id, "PRESA IN CARICO:", "presa-in-carico");
    signed(issuer, header, &testo(busta, ricezione, moment), &daticert, None, message_id)
}

fn testo(busta: &Daticert, ricezione: &[String], moment: Moment) -> Testo {
    let (oggetto, mittente) = (oggetto(busta), quotable(&busta.mittente));
    let italiano = [
        format!("{} il messaggio", il_giorno(moment)),
        format!("\"{oggetto}\" proveniente da \"{mittente}\""),
        "ed indirizzato a:".to_owned(),
    ]
    .into_iter()
    .chain(ricezione.iter().cloned())
    .chain(["è stato accettato dal sistema.".to_owned(), identificativo(busta)]);
    let inglese = [
        format!("{} the message", on_the_day(moment)),
        format!("\"{oggetto}\" from \"{mittente}\""),
        "and addressed to:".to_owned(),
    ]
    .into_iter()
    .chain(ricezione.iter().cloned())
    .chain(["was accepted by the system.".to_owned(), message_identifier(busta)]);
    Testo {
        italiano: Lingua::new("Ricevuta di presa in carico", italiano),
        inglese: Lingua::new("Server-server acceptance PEC notification", inglese),
    }
}
