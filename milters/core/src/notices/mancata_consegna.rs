//! Avviso di mancata consegna: tells the sender that a recipient will not get the message (RFC 6109 s. 3.3.3,
//! for viruses s. 3.2.4).

use super::testo::{Lingua, Testo, identificativo, il_giorno, message_identifier, oggetto, on_the_day};
use super::{Issuer, Notice, receipt_header, signed};
use crate::clock::Moment;
use crate::daticert::{Daticert, Errore, Tipo};
use crate::header::Field;
use crate::showable::quotable;
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
    /// The virus, where the recipient's provider found one.
    pub virus: Option<String>,
}

/// What a fact's status begins with where the cause is a virus; its name follows. No enhanced status code
/// looks like it.
const VIRUS: &str = "virus ";

/// The status of a failure whose cause is this virus, as another provider calls it.
pub fn virus_status(virus: &str) -> String {
    let name: String = virus.chars().filter(|c| !c.is_control()).take(200).collect();
    format!("{VIRUS}{}", name.trim())
}

impl Causa {
    /// The cause behind an enhanced status code (RFC 3463) that Postfix reports for a mailbox of ours or a
    /// host of others, or behind a [`virus_status`].
    pub fn from_status(status: &str) -> Self {
        let causa = |errore, codice: &str, italiano: &str, inglese: &str| Self {
            errore,
            codice: codice.to_owned(),
            italiano: italiano.to_owned(),
            inglese: inglese.to_owned(),
            virus: None,
        };
        if let Some(virus) = status.strip_prefix(VIRUS) {
            let causa = causa(
                Errore::Virus,
                "5.5.1",
                "presenza di un virus nel messaggio",
                "presence of a virus in the message",
            );
            return Self { virus: Some(virus.to_owned()), ..causa };
        }
        let (class, detail) = status.split_once('.').unwrap_or_default();
        match detail {
            "2.2" => causa(Errore::Altro, "5.2.2", "casella piena", "mailbox full"),
            // Postfix gives up for a passing reason only when its queue lifetime is over: what was wrong then
            // is not the cause.
            _ if class == "4" => causa(
                Errore::Altro,
                "5.4.1",
                "il messaggio non è stato consegnato nelle prime ventiquattro ore dal suo invio",
                "the message was not delivered within twenty-four hours of its sending",
            ),
            "1.1" | "1.6" => causa(Errore::NoDest, "5.1.1", "indirizzo non valido", "invalid address"),
            // Postfix says 5.4.4 where the DNS knows no such host, 5.1.10 where the domain takes no mail at
            // all.
            "1.2" | "1.10" | "4.4" => {
                causa(Errore::NoDominio, "5.1.2", "dominio non valido", "invalid domain")
            }
            "2.1" => causa(
                Errore::Altro,
                "5.2.1",
                "casella disattivata o che non accetta messaggi",
                "mailbox disabled, or one that accepts no messages",
            ),
            "2.3" | "3.4" => causa(
                Errore::Altro,
                "5.2.3",
                "messaggio troppo grande per la casella",
                "message too large for the mailbox",
            ),
            detail => {
                // 5.4.1 says "not within 24 hours", whatever another server means by it.
                let codice = if is_detail(detail) && detail != "4.1" {
                    format!("5.{detail}")
                } else {
                    "5.0.0".to_owned()
                };
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
    let header = |prefix: &str| {
        receipt_header(issuer, busta, &busta.mittente, moment, message_id, prefix, "errore-consegna")
    };
    let Some(virus) = &causa.virus else {
        let testo = testo(issuer, busta, consegna, causa, moment);
        return signed(issuer, header("AVVISO DI MANCATA CONSEGNA:"), &testo, &daticert, None, message_id);
    };
    let mut header = header("AVVISO DI MANCATA CONSEGNA PER VIRUS:");
    header.push(Field::written("X-VerificaSicurezza", "errore"));
    signed(issuer, header, &testo_virus(busta, consegna, virus, moment), &daticert, None, message_id)
}

fn is_detail(detail: &str) -> bool {
    detail.split_once('.').is_some_and(|(a, b)| {
        [a, b].iter().all(|n| (1..=3).contains(&n.len()) && n.bytes().all(|c| c.is_ascii_digit()))
    })
}

fn testo(issuer: Issuer<'_>, busta: &Daticert, consegna: &str, causa: &Causa, moment: Moment) -> Testo {
    let consegna = quotable(consegna);
    let (oggetto, mittente) = (oggetto(busta), quotable(&busta.mittente));
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
    Testo {
        italiano: Lingua::new("Avviso di mancata consegna", italiano),
        inglese: Lingua::new("Non delivery PEC notification", inglese),
    }
}

fn testo_virus(busta: &Daticert, consegna: &str, virus: &str, moment: Moment) -> Testo {
    let consegna = quotable(consegna);
    let oggetto = oggetto(busta);
    let italiano = [
        format!("{} nel messaggio", il_giorno(moment)),
        format!("\"{oggetto}\" destinato all'utente \"{consegna}\""),
        format!("è stato rilevato un problema di sicurezza {virus}."),
        "Il messaggio non è stato consegnato.".to_owned(),
        identificativo(busta),
    ];
    let inglese = [
        format!("{} in the message", on_the_day(moment)),
        format!("\"{oggetto}\" addressed to \"{consegna}\""),
        format!("a security problem was detected {virus}."),
        "The message was not delivered.".to_owned(),
        message_identifier(busta),
    ];
    Testo {
        italiano: Lingua::new("Avviso di mancata consegna per virus informatico", italiano),
        inglese: Lingua::new("Delivery error PEC notification due to virus", inglese),
    }
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
        assert_eq!(causa("5.2.3").1, "5.2.3 - Alfa - messaggio troppo grande per la casella");
        for no_domain in ["5.1.2", "5.1.10", "5.4.4"] {
            assert_eq!(causa(no_domain), (Errore::NoDominio, "5.1.2 - Alfa - dominio non valido".into()));
        }
        assert_eq!(causa("5.2.1").1, "5.2.1 - Alfa - casella disattivata o che non accetta messaggi");
        for any_other in ["5.7.1", "5.5.0"] {
            assert_eq!(
                causa(any_other),
                (
                    Errore::Altro,
                    format!("{any_other} - Alfa - si sono verificati dei problemi consegnando il messaggio")
                )
            );
        }
        for unreadable in
            ["nonsense", "5.1", "", "5.4.1", "5.1.x", "5.x.1", "5.1.", "5..1", "5.1.1234", "5.7.1\r\nX"]
        {
            assert_eq!(
                causa(unreadable).1,
                "5.0.0 - Alfa - si sono verificati dei problemi consegnando il messaggio"
            );
        }
        // The end of the queue's lifetime, whatever the last attempt met.
        for status in ["4.4.1", "4.4.7", "4.1.1", "4.3.0"] {
            let text = "5.4.1 - Alfa - il messaggio non è stato consegnato nelle prime ventiquattro ore dal \
                suo invio";
            assert_eq!(causa(status), (Errore::Altro, text.into()), "{status}");
        }
    }

    #[test]
    fn rfc6109_3_2_4_a_virus_is_a_cause_of_its_own() {
        let causa = Causa::from_status(&virus_status("Eicar-Test-Signature\r\n"));
        assert_eq!((causa.errore, causa.virus.as_deref()), (Errore::Virus, Some("Eicar-Test-Signature")));
        assert_eq!(causa.errore_esteso("Alfa"), "5.5.1 - Alfa - presenza di un virus nel messaggio");
        assert_eq!(Causa::from_status("5.1.1").virus, None);
    }
}
