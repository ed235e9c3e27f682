//! Avviso di mancata consegna: tells the sender that a recipient will not get the message (RFC 6109 s. 3.3.3).

use super::testo::{Lingua, Testo, identificativo, il_giorno, message_identifier, oggetto, on_the_day};
use super::{Issuer, Notice, receipt_header, signed};
use crate::clock::Moment;
use crate::daticert::{Daticert, Errore, Tipo};
use crate::smime::sign::SignError;

/// Why a delivery failed, in the common coding of the providers (AgID, Note integrative, nota 12).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Causa {
    /// `postacert/@errore`.
    pub errore: Errore,
    /// The code, `x.y.z`.
    pub codice: String,
    /// The text in Italian.
    pub italiano: String,
    /// The text in English.
    pub inglese: String,
}

impl Causa {
    /// The cause behind an enhanced status code (RFC 3463) that Postfix reports for a mailbox of ours or a host of others.
    pub fn from_status(status: &str) -> Self {
        let causa = |errore, codice: &str, italiano: &str, inglese: &str| Self {
            errore,
            codice: codice.to_owned(),
            italiano: italiano.to_owned(),
            inglese: inglese.to_owned(),
        };
        match status.split_once('.').map_or("", |(_, detail)| detail) {
            "1.1" | "1.6" => causa(Errore::NoDest, "5.1.1", "indirizzo non valido", "invalid address"),
            "1.2" => causa(Errore::NoDominio, "5.1.2", "dominio non valido", "invalid domain"),
            "2.1" => causa(Errore::Altro, "5.2.1", "casella disattivata", "mailbox disabled"),
            "2.2" => causa(Errore::Altro, "5.2.2", "casella piena", "mailbox full"),
            "2.3" | "3.4" => causa(Errore::Altro, "5.2.3", "messaggio troppo grande per la casella", "message too large for the mailbox"),
            detail => {
                let codice = if is_detail(detail) { format!("5.{detail}") } else { "5.0.0".to_owned() };
                causa(
                    Errore::Altro,
                    &codice,
                    "si sono verificati dei problemi consegnando il messaggio",
                    "problems occurred while delivering the message",
                )
            }
        }
    }

    /// `errore-esteso`: `5.1.1 - <gestore> - indirizzo non valido`.
    pub fn errore_esteso(&self, gestore: &str) -> String {
        format!("{} - {gestore} - {}", self.codice, self.italiano)
    }
}

/// The notice for `consegna`, which failed at `moment`.
pub fn mancata_consegna(
    issuer: Issuer<'_>,
    busta: &Daticert,
    consegna: &str,
    causa: &Causa,
    moment: Moment,
    message_id: &str,
) -> Result<Notice, SignError> {
    let mut daticert = busta.about_same_message(Tipo::ErroreConsegna, issuer.provider_name, moment);
    daticert.errore = causa.errore;
    daticert.consegna = Some(consegna.to_owned());
    daticert.errore_esteso = Some(causa.errore_esteso(issuer.provider_name));
    let header = receipt_header(issuer, busta, &busta.mittente, moment, message_id, "AVVISO DI MANCATA CONSEGNA:", "errore-consegna");
    signed(issuer, header, &testo(issuer, busta, consegna, causa, moment), &daticert, None, message_id)
}

fn is_detail(detail: &str) -> bool {
    detail.split_once('.').is_some_and(|(a, b)| [a, b].iter().all(|n| (1..=3).contains(&n.len()) && n.bytes().all(|c| c.is_ascii_digit())))
}

fn testo(issuer: Issuer<'_>, busta: &Daticert, consegna: &str, causa: &Causa, moment: Moment) -> Testo {
    let (oggetto, mittente) = (oggetto(busta), &busta.mittente);
    let italiano = [
        format!("{} nel messaggio", il_giorno(moment)),
        format!("\"{oggetto}\" proveniente da \"{mittente}\""),
        format!("e destinato all'utente \"{consegna}\""),
        format!("è stato rilevato un errore {}.", causa.errore_esteso(issuer.provider_name)),
        "Il messaggio è stato rifiutato dal sistema.".to_owned(),
        identificativo(busta),
    ];
    let inglese = [
        format!("{} the message", on_the_day(moment)),
        format!("\"{oggetto}\" from \"{mittente}\""),
        format!("and addressed to \"{consegna}\""),
        format!("encountered an error {} - {} - {}.", causa.codice, issuer.provider_name, causa.inglese),
        "The message was rejected by the system.".to_owned(),
        message_identifier(busta),
    ];
    Testo { italiano: Lingua::new("Avviso di mancata consegna", italiano), inglese: Lingua::new("Non delivery PEC notification", inglese) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agid_nota_12_codes() {
        let causa = |status| {
            let causa = Causa::from_status(status);
            (causa.errore, causa.errore_esteso("Alfa"))
        };
        assert_eq!(causa("5.1.1"), (Errore::NoDest, "5.1.1 - Alfa - indirizzo non valido".into()));
        assert_eq!(causa("5.2.2"), (Errore::Altro, "5.2.2 - Alfa - casella piena".into()));
        assert_eq!(causa("4.2.2").1, "5.2.2 - Alfa - casella piena");
        assert!(causa("4.4.7").1.starts_with("5.4.7 - "));
        assert!(causa("nonsense").1.starts_with("5.0.0 - "));
        assert!(causa("5.1").1.starts_with("5.0.0 - "));
    }
}
