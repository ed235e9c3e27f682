//! Avviso di rilevazione virus: tells the sender's provider that its envelope carries a virus and was not
//! delivered (RFC 6109 s. 3.2.3). One for each recipient.

use super::testo::{Lingua, Testo, identificativo, il_giorno, message_identifier, oggetto, on_the_day};
use super::{Issuer, Notice, receipt_header, signed};
use crate::clock::Moment;
use crate::daticert::{Daticert, Errore, Tipo};
use crate::header::Field;
use crate::showable::quotable;
use crate::smime::sign::SignError;

/// The notice to `to` (the other provider's `mailReceipt`) about the recipient `consegna`; `virus` is the
/// scanner's name for what it found.
pub fn rilevazione_virus(
    issuer: Issuer<'_>,
    busta: &Daticert,
    to: &str,
    consegna: &str,
    virus: &str,
    moment: Moment,
    message_id: &str,
) -> Result<Notice, SignError> {
    let mut daticert = busta.about_same_message(Tipo::RilevazioneVirus, issuer.provider_name, moment);
    daticert.errore = Errore::Virus;
    daticert.consegna = Some(consegna.to_owned());
    daticert.errore_esteso = Some(virus.to_owned());
    let mut header = receipt_header(
        issuer,
        busta,
        to,
        moment,
        message_id,
        "PROBLEMA DI SICUREZZA:",
        Tipo::RilevazioneVirus.as_str(),
    );
    header.push(Field::written("X-Mittente", &busta.mittente));
    signed(issuer, header, &testo(busta, consegna, virus, moment), &daticert, None, message_id)
}

fn testo(busta: &Daticert, consegna: &str, virus: &str, moment: Moment) -> Testo {
    let consegna = quotable(consegna);
    let (oggetto, mittente) = (oggetto(busta), quotable(&busta.mittente));
    let italiano = [
        format!("{} nel messaggio", il_giorno(moment)),
        format!("\"{oggetto}\" proveniente da \"{mittente}\""),
        format!("e destinato all'utente \"{consegna}\""),
        format!("è stato rilevato un problema di sicurezza {virus}."),
        identificativo(busta),
    ];
    let inglese = [
        format!("{} in the message", on_the_day(moment)),
        format!("\"{oggetto}\" from \"{mittente}\""),
        format!("and addressed to \"{consegna}\""),
        format!("a security problem was detected {virus}."),
        message_identifier(busta),
    ];
    Testo {
        italiano: Lingua::new("Avviso di rilevazione virus informatico", italiano),
        inglese: Lingua::new("Virus detection PEC notification", inglese),
    }
}
