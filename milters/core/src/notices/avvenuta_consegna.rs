//! Ricevuta di avvenuta consegna: tells the sender that the mailbox has the message (RFC 6109 s. 3.3.2).

use super::testo::{Lingua, Testo, identificativo, il_giorno, message_identifier, oggetto, on_the_day};
use super::{Issuer, Notice, receipt_header, signed};
use crate::clock::Moment;
use crate::daticert::{Daticert, Tipo, TipoRicevuta};
use crate::message::Body;
use crate::showable::quotable;
use crate::smime::sign::SignError;

/// The receipt for `consegna`, whose mailbox saved the message at `moment`. With the `original`
/// (postacert.eml as it came) it is complete, with what [`crate::breve`] makes of it brief, without it
/// concise (s. 3.3.2.1 to 3.3.2.3). Title and `<ricevuta>` repeat what the sender asked for, also to somebody
/// in Cc, whose receipt is always concise.
pub fn avvenuta_consegna(
    issuer: Issuer<'_>,
    busta: &Daticert,
    consegna: &str,
    moment: Moment,
    original: Option<Body>,
    message_id: &str,
) -> Result<Notice, SignError> {
    let mut daticert = busta.about_same_message(Tipo::AvvenutaConsegna, issuer.provider_name, moment);
    daticert.ricevuta = busta.ricevuta;
    daticert.consegna = Some(consegna.to_owned());
    let header =
        receipt_header(issuer, busta, &busta.mittente, moment, message_id, "CONSEGNA:", "avvenuta-consegna");
    signed(issuer, header, &testo(busta, consegna, moment), &daticert, original, message_id)
}

fn testo(busta: &Daticert, consegna: &str, moment: Moment) -> Testo {
    let consegna = quotable(consegna);
    let (oggetto, mittente) = (oggetto(busta), quotable(&busta.mittente));
    let italiano = [
        format!("{} il messaggio", il_giorno(moment)),
        format!("\"{oggetto}\" proveniente da \"{mittente}\""),
        format!("ed indirizzato a \"{consegna}\""),
        "è stato consegnato nella casella di destinazione.".to_owned(),
        identificativo(busta),
    ];
    let inglese = [
        format!("{} the message", on_the_day(moment)),
        format!("\"{oggetto}\" from \"{mittente}\""),
        format!("and addressed to \"{consegna}\""),
        "was successfully delivered to the destination mailbox.".to_owned(),
        message_identifier(busta),
    ];
    let (titolo, title) = match busta.ricevuta {
        None | Some(TipoRicevuta::Completa) => ("Ricevuta di avvenuta consegna", "Delivery PEC notification"),
        Some(TipoRicevuta::Breve) => {
            ("Ricevuta breve di avvenuta consegna", "Brief delivery PEC notification")
        }
        Some(TipoRicevuta::Sintetica) => {
            ("Ricevuta sintetica di avvenuta consegna", "Concise delivery PEC notification")
        }
    };
    Testo { italiano: Lingua::new(titolo, italiano), inglese: Lingua::new(title, inglese) }
}
