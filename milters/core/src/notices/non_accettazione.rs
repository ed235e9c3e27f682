//! Avviso di non accettazione: tells the sender that the message goes nowhere (RFC 6109 s. 3.1.2, for viruses
//! s. 3.1.3).

use super::testo::{
    Lingua, Testo, destinatari, identificativo, il_giorno, message_identifier, oggetto, on_the_day,
};
use super::{Issuer, Notice, receipt_header, signed};
use crate::daticert::{Daticert, Errore};
use crate::header::Field;
use crate::showable::quotable;
use crate::smime::sign::SignError;

/// The notice with these data, whose `errore-esteso` says in Italian what `inglese` says in English. `errore`
/// decides which of the two notices it is: `virus`, or a formal exception.
pub fn non_accettazione(
    issuer: Issuer<'_>,
    daticert: &Daticert,
    inglese: &str,
    message_id: &str,
) -> Result<Notice, SignError> {
    let virus = daticert.errore == Errore::Virus;
    let prefix = if virus { "AVVISO DI NON ACCETTAZIONE PER VIRUS:" } else { "AVVISO DI NON ACCETTAZIONE:" };
    let mut header = receipt_header(
        issuer,
        daticert,
        &daticert.mittente,
        daticert.data,
        message_id,
        prefix,
        "non-accettazione",
    );
    if virus {
        header.push(Field::written("X-VerificaSicurezza", "errore"));
    }
    signed(issuer, header, &testo(daticert, inglese, virus), daticert, None, message_id)
}

fn testo(daticert: &Daticert, inglese: &str, virus: bool) -> Testo {
    let (oggetto, mittente) = (oggetto(daticert), quotable(&daticert.mittente));
    let italiano = daticert.errore_esteso.as_deref().unwrap_or_default();
    let (titolo, cause, title, reasons) = if virus {
        (
            "Errore nell'accettazione del messaggio dovuto alla presenza di virus",
            vec![format!("è stato rilevato un problema di sicurezza {italiano}.")],
            "Error in message acceptance due to virus presence",
            vec![format!("a security problem was detected {inglese}.")],
        )
    } else {
        (
            "Errore nell'accettazione del messaggio",
            vec![
                "è stato rilevato un problema che ne impedisce l'accettazione".to_owned(),
                format!("a causa di {italiano}."),
            ],
            "Error in message acceptance",
            vec![
                "a problem was detected that prevents its acceptance".to_owned(),
                format!("due to {inglese}."),
            ],
        )
    };
    let righe = [
        format!("{} nel messaggio", il_giorno(daticert.data)),
        format!("\"{oggetto}\" proveniente da \"{mittente}\""),
        "ed indirizzato a:".to_owned(),
    ]
    .into_iter()
    .chain(destinatari(daticert))
    .chain(cause)
    .chain(["Il messaggio non è stato accettato.".to_owned(), identificativo(daticert)]);
    let lines = [
        format!("{} in the message", on_the_day(daticert.data)),
        format!("\"{oggetto}\" from \"{mittente}\""),
        "and addressed to:".to_owned(),
    ]
    .into_iter()
    .chain(destinatari(daticert))
    .chain(reasons)
    .chain(["The message was not accepted.".to_owned(), message_identifier(daticert)]);
    Testo { italiano: Lingua::new(titolo, righe), inglese: Lingua::new(title, lines) }
}
