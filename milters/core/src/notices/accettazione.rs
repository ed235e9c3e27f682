//! Ricevuta di accettazione: tells the sender that the message was accepted and sent on (RFC 6109 s. 3.1.4).

use super::testo::{
    Lingua, Testo, destinatari_con_tipo, identificativo, il_giorno, message_identifier, oggetto, on_the_day,
};
use super::{Issuer, Notice, receipt_header, signed};
use crate::daticert::{Daticert, Tipo};
use crate::showable::quotable;
use crate::smime::sign::SignError;

/// The receipt for the envelope with these data, of the same second as the envelope (RFC 6109 s. 4.1).
pub fn accettazione(issuer: Issuer<'_>, busta: &Daticert, message_id: &str) -> Result<Notice, SignError> {
    let moment = busta.data;
    let daticert = busta.about_same_message(Tipo::Accettazione, issuer.provider_name, moment);
    let header =
        receipt_header(issuer, busta, &busta.mittente, moment, message_id, "ACCETTAZIONE:", "accettazione");
    signed(issuer, header, &testo(busta), &daticert, None, message_id)
}

fn testo(busta: &Daticert) -> Testo {
    let (oggetto, mittente) = (oggetto(busta), quotable(&busta.mittente));
    let italiano = [
        format!("{} il messaggio", il_giorno(busta.data)),
        format!("\"{oggetto}\" proveniente da \"{mittente}\""),
        "ed indirizzato a:".to_owned(),
    ]
    .into_iter()
    .chain(destinatari_con_tipo(busta, "posta certificata", "posta ordinaria"))
    .chain(["Il messaggio è stato accettato dal sistema ed inoltrato.".to_owned(), identificativo(busta)]);
    let inglese = [
        format!("{} the message", on_the_day(busta.data)),
        format!("\"{oggetto}\" from \"{mittente}\""),
        "and addressed to:".to_owned(),
    ]
    .into_iter()
    .chain(destinatari_con_tipo(busta, "certified mail", "ordinary mail"))
    .chain(["has been accepted by the system and forwarded.".to_owned(), message_identifier(busta)]);
    Testo {
        italiano: Lingua::new("Ricevuta di accettazione", italiano),
        inglese: Lingua::new("Acceptance PEC notification", inglese),
    }
}
