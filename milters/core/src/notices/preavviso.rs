//! Avviso di mancata consegna per superamento dei tempi massimi: tells the sender that nobody has certified
//! the delivery within 12 hours, then within 24 (RFC 6109 s. 3.1.6; DM 2/11/2005 art. 13).

use super::testo::{Lingua, Testo, identificativo, il_giorno, message_identifier, oggetto, on_the_day};
use super::{Issuer, Notice, receipt_header, signed};
use crate::clock::Moment;
use crate::daticert::{Daticert, Errore, Tipo};
use crate::showable::quotable;
use crate::smime::sign::SignError;

/// Which deadline is over. Both notices have the same header and the same tipo; programs tell them apart by
/// `errore-esteso` alone, which begins with 5.4.1 in the second and must not in the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Termine {
    /// The first: it may still arrive.
    DodiciOre,
    /// The second: it counts as failed.
    VentiquattroOre,
}

impl Termine {
    /// `errore-esteso`.
    pub fn errore_esteso(self, gestore: &str) -> String {
        match self {
            Self::DodiciOre => {
                "il messaggio non è stato consegnato nelle prime dodici ore dal suo invio".to_owned()
            }
            Self::VentiquattroOre => format!(
                "5.4.1 - {gestore} - il messaggio non è stato consegnato nelle prime ventiquattro ore dal \
                suo invio"
            ),
        }
    }

    fn italiano(self) -> &'static [&'static str] {
        match self {
            Self::DodiciOre => &[
                "non è stato consegnato nelle prime dodici ore dal suo invio. Non escludendo",
                "che questo possa avvenire in seguito, si ritiene utile considerare che l'invio",
                "potrebbe non andare a buon fine. Il sistema provvederà comunque ad inviare",
                "un ulteriore avviso di mancata consegna se nelle prossime dodici ore non vi",
                "sarà la conferma della ricezione da parte del destinatario.",
            ],
            Self::VentiquattroOre => &[
                "non è stato consegnato nelle ventiquattro ore successive al suo invio.",
                "Si ritiene che la spedizione debba considerarsi non andata a buon fine.",
            ],
        }
    }

    fn inglese(self) -> &'static [&'static str] {
        match self {
            Self::DodiciOre => &[
                "has not been delivered within the first 12 hours following its dispatch.",
                "Not excluding that the message might eventually be delivered, it is deemed",
                "useful to consider that dispatch might not have a positive outcome. The system",
                "will see to sending another non-delivery PEC notification if in the following",
                "twelve hours no confirmation is received from the recipient.",
            ],
            Self::VentiquattroOre => &[
                "has not been delivered within 24 hours of its dispatch.",
                "The transaction is deemed to be considered terminated with a negative outcome.",
            ],
        }
    }
}

/// The notice to the sender about `consegna`, made at `moment`.
pub fn preavviso(
    issuer: Issuer<'_>,
    busta: &Daticert,
    consegna: &str,
    termine: Termine,
    moment: Moment,
    message_id: &str,
) -> Result<Notice, SignError> {
    let mut daticert = busta.about_same_message(Tipo::PreavvisoErroreConsegna, issuer.provider_name, moment);
    daticert.errore = Errore::Altro;
    daticert.consegna = Some(consegna.to_owned());
    daticert.errore_esteso = Some(termine.errore_esteso(issuer.provider_name));
    let prefix = "AVVISO DI MANCATA CONSEGNA PER SUP. TEMPO MASSIMO:";
    let header = receipt_header(
        issuer,
        busta,
        &busta.mittente,
        moment,
        message_id,
        prefix,
        "preavviso-errore-consegna",
    );
    signed(issuer, header, &testo(busta, consegna, termine, moment), &daticert, None, message_id)
}

fn testo(busta: &Daticert, consegna: &str, termine: Termine, moment: Moment) -> Testo {
    let consegna = quotable(consegna);
    let (oggetto, mittente) = (oggetto(busta), quotable(&busta.mittente));
    let owned = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
    let italiano = [
        format!("{} il messaggio", il_giorno(moment)),
        format!("\"{oggetto}\" proveniente da \"{mittente}\""),
        format!("e destinato all'utente \"{consegna}\""),
    ];
    let inglese = [
        format!("{} the message", on_the_day(moment)),
        format!("\"{oggetto}\" originating from \"{mittente}\""),
        format!("and addressed to \"{consegna}\""),
    ];
    Testo {
        italiano: Lingua::new(
            "Avviso di mancata consegna",
            italiano.into_iter().chain(owned(termine.italiano())).chain([identificativo(busta)]),
        ),
        inglese: Lingua::new(
            "Non delivery PEC notification",
            inglese.into_iter().chain(owned(termine.inglese())).chain([message_identifier(busta)]),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agid_nota_12_only_the_second_notice_begins_with_5_4_1() {
        assert!(Termine::VentiquattroOre.errore_esteso("Alfa").starts_with("5.4.1 - Alfa - il messaggio"));
        assert!(!Termine::DodiciOre.errore_esteso("5.4.1").contains("5.4.1"));
    }
}
