//! The events of the retained log: what a row says has happened.
//!
//! Promise: the spelling of an event, its words in Italian and English, and what the report counts it as
//! stand here and nowhere else. An event that is added without one of them does not compile. A row may have a
//! name that no event has, because a newer program wrote it or somebody forged it: its words say so.

use std::fmt;
use std::str::FromStr;

use pec_core::daticert::Tipo;

use crate::fact_kind::FactKind;

/// Begins the name of [`Event::Ricevuta`]; the receipt's tipo follows.
pub const RICEVUTA: &str = "ricevuta-";

/// Begins the name of [`Event::RicevutaEstranea`]; the receipt's tipo follows.
const RICEVUTA_ESTRANEA: &str = "ricevuta-estranea-";

/// What an event means, for somebody who knows neither the rules nor the programs. A sentence without its
/// full stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Words {
    /// In Italian.
    pub italiano: &'static str,
    /// In English.
    pub inglese: &'static str,
}

impl Words {
    /// Of a name that no event has.
    pub const UNKNOWN: Self = Self {
        italiano: "Questa versione del programma non conosce questo evento",
        inglese: "This version of the program does not know this event",
    };

    /// Of the event that a row names.
    pub fn of(event: &str) -> Self {
        event.parse().map_or(Self::UNKNOWN, Event::words)
    }
}

/// What `pecctl report` counts, besides the rows of each event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    /// An account submitted a message.
    Submission,
    /// The message was accepted.
    Acceptance,
    /// It was delivered to a mailbox of ours.
    Delivery,
    /// From now on something that mail hangs on is gone.
    Gone,
    /// It is back.
    Back,
}

/// Makes [`Event`] of the events that have no kind: name, words in Italian, words in English. Those that have
/// one stand in the macro itself.
macro_rules! events {
    ($($(#[$doc:meta])* $event:ident = $name:literal: $italiano:literal, $inglese:literal;)+) => {
        /// What happened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Event {
            $($(#[$doc])* $event,)+
            /// A notice of ours was made; the kind of its fact.
            Notice(FactKind),
            /// A receipt or notice of another provider came; daticert's tipo.
            Ricevuta(Tipo),
            /// One that speaks of a message never sent from here.
            RicevutaEstranea(Tipo),
        }

        impl Event {
            /// All events.
            pub fn all() -> Vec<Self> {
                let mut all = vec![$(Self::$event,)+];
                all.extend(FactKind::ALL.iter().copied().map(Self::Notice));
                all.extend(Tipo::ALL.iter().copied().map(Self::Ricevuta));
                all.extend(Tipo::ALL.iter().copied().map(Self::RicevutaEstranea));
                all
            }

            /// What it means.
            pub fn words(self) -> Words {
                let (italiano, inglese) = match self {
                    $(Self::$event => ($italiano, $inglese),)+
                    Self::Notice(kind) => kind.words(),
                    Self::Ricevuta(tipo) => of_ricevuta(tipo),
                    Self::RicevutaEstranea(_) => OF_RICEVUTA_ESTRANEA,
                };
                Words { italiano, inglese }
            }
        }

        impl FromStr for Event {
            type Err = UnknownEvent;

            fn from_str(name: &str) -> Result<Self, UnknownEvent> {
                match name {
                    $($name => Ok(Self::$event),)+
                    _ => of_kind(name).ok_or(UnknownEvent),
                }
            }
        }

        impl fmt::Display for Event {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$event => f.write_str($name),)+
                    Self::Notice(kind) => write!(f, "{kind}"),
                    Self::Ricevuta(tipo) => write!(f, "{RICEVUTA}{tipo}"),
                    Self::RicevutaEstranea(tipo) => write!(f, "{RICEVUTA_ESTRANEA}{tipo}"),
                }
            }
        }
    };
}

events! {
    /// The Access Point received a message and signed the envelope around it.
    Accesso = "accesso":
        "Il gestore ha ricevuto il messaggio dal mittente e lo ha posto nella busta di trasporto",
        "The provider received the message from its sender and put it into a transport envelope";
    /// The Incoming Point verified an envelope.
    Ricezione = "ricezione":
        "Il gestore del destinatario ha ricevuto e verificato la busta di trasporto",
        "The recipient's provider received the transport envelope and verified it";
    /// Something that is no correct certified mail was put into a busta di anomalia.
    Anomalia = "anomalia":
        "È giunto un messaggio che non è posta certificata integra: busta di anomalia al destinatario",
        "A message came that is no intact certified mail: anomaly envelope to the recipient";
    /// A rule of certified mail was not kept (`pecctl log audit`).
    Violazione = "violazione":
        "Il controllo del registro ha trovato che una regola della posta certificata non è stata rispettata",
        "The audit of the log found that a rule of certified mail was not kept";
    /// The virus scanner's signatures are older than the administrator allows.
    FirmeAntivirus = "firme-antivirus":
        "Le firme dell'antivirus sono vecchie",
        "The virus scanner's signatures are old";
    /// The directory of providers has changed.
    IndiceGestori = "indice-gestori":
        "L'indice dei gestori è cambiato",
        "The directory of providers changed";
    /// A program took up its work.
    Avvio = "avvio":
        "Un programma del gestore è stato avviato",
        "A program of the provider was started";
    /// A program ended.
    Arresto = "arresto":
        "Un programma del gestore è terminato",
        "A program of the provider ended";
    /// A program has other parameters than before.
    Configurazione = "configurazione":
        "La configurazione è cambiata",
        "The configuration changed";
    /// Another certificate of ours signs from now on.
    CertificatoGestore = "certificato-gestore":
        "Il gestore firma con un altro certificato",
        "The provider signs with another certificate";
    /// A CA's new revocation list is in force.
    ListaRevoche = "lista-revoche":
        "È in vigore una nuova lista dei certificati revocati",
        "A new list of revoked certificates is in force";
    /// What mail hangs on does not answer: database, virus scanner, token.
    Interruzione = "interruzione":
        "Un servizio interno non risponde",
        "An internal service does not answer";
    /// It answers again.
    Ripristino = "ripristino":
        "Un servizio interno risponde di nuovo",
        "An internal service answers again";
    /// How far the clock may be from UTC.
    Orologio = "orologio":
        "L'orologio è stato confrontato con quello di riferimento",
        "The clock was compared with its reference";
    /// Somebody read the retained log.
    LetturaRegistro = "lettura-registro":
        "Qualcuno ha consultato il registro",
        "Somebody read the log";
    /// Somebody opened the infected store.
    LetturaInfetti = "lettura-infetti":
        "Qualcuno ha aperto l'archivio dei messaggi con virus",
        "Somebody opened the store of messages with viruses";
    /// An older backup of the database was restored, and rows are lost.
    RegistroRipristinato = "registro-ripristinato":
        "È stata ripristinata una copia meno recente del registro: le righe che non aveva sono perdute",
        "An older backup of the log was restored: the rows that it did not have are lost";
    /// A month has left the database; its rows are in the days' files.
    RegistroRitirato = "registro-ritirato":
        "Trascorso il loro tempo, le righe di un mese hanno lasciato la base di dati: sono nei file dei giorni",
        "After their time the rows of a month have left the database; they are in the days' files";
}

fn of_ricevuta(tipo: Tipo) -> (&'static str, &'static str) {
    match tipo {
        Tipo::PresaInCarico => (
            "È giunta la ricevuta di presa in carico del gestore del destinatario",
            "The take-in-charge receipt of the recipient's provider came",
        ),
        Tipo::AvvenutaConsegna => (
            "È giunta la ricevuta di avvenuta consegna del gestore del destinatario",
            "The delivery receipt of the recipient's provider came",
        ),
        Tipo::ErroreConsegna => (
            "È giunto l'avviso di mancata consegna del gestore del destinatario",
            "The non-delivery notice of the recipient's provider came",
        ),
        Tipo::RilevazioneVirus => (
            "È giunto l'avviso di rilevazione virus del gestore del destinatario",
            "The virus detection notice of the recipient's provider came",
        ),
        // No provider has a reason to send one of these here.
        Tipo::Accettazione
        | Tipo::NonAccettazione
        | Tipo::PostaCertificata
        | Tipo::PreavvisoErroreConsegna => {
            ("È giunta una ricevuta di un altro gestore", "A receipt of another provider came")
        }
    }
}

const OF_RICEVUTA_ESTRANEA: (&str, &str) = (
    "È giunta da un altro gestore una ricevuta che qui non vale: riguarda un messaggio mai spedito da qui, o il \
     gestore non può parlarne",
    "A receipt came from another provider that counts for nothing here: it is about a message never sent from \
     here, or its provider may not speak of it",
);

impl Event {
    /// As the log spells it.
    pub fn name(self) -> String {
        self.to_string()
    }

    /// Whether it is a notice of ours: one that has a fact.
    pub fn is_notice(self) -> bool {
        matches!(self, Self::Notice(_))
    }

    /// What the report counts it as.
    pub fn figure(self) -> Option<Figure> {
        match self {
            Self::Accesso => Some(Figure::Submission),
            Self::Notice(kind) => kind.figure(),
            Self::Arresto | Self::Interruzione => Some(Figure::Gone),
            Self::Avvio | Self::Ripristino => Some(Figure::Back),
            Self::Ricezione
            | Self::Anomalia
            | Self::Violazione
            | Self::FirmeAntivirus
            | Self::IndiceGestori
            | Self::Configurazione
            | Self::CertificatoGestore
            | Self::ListaRevoche
            | Self::Orologio
            | Self::LetturaRegistro
            | Self::LetturaInfetti
            | Self::RegistroRipristinato
            | Self::RegistroRitirato
            | Self::Ricevuta(_)
            | Self::RicevutaEstranea(_) => None,
        }
    }
}

/// A name that no event has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no event has this name; these there are: {}", names())]
pub struct UnknownEvent;

fn names() -> String {
    Event::all().into_iter().map(Event::name).collect::<Vec<_>>().join(", ")
}

/// The event of this name that has a kind.
fn of_kind(name: &str) -> Option<Event> {
    if let Some(tipo) = name.strip_prefix(RICEVUTA_ESTRANEA) {
        return tipo.parse().ok().map(Event::RicevutaEstranea);
    }
    match name.strip_prefix(RICEVUTA) {
        Some(tipo) => tipo.parse().ok().map(Event::Ricevuta),
        None => name.parse().ok().map(Event::Notice),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn every_event_is_read_as_it_is_spelled_and_has_words_of_its_own() {
        let all = Event::all();
        assert_eq!(all.iter().map(ToString::to_string).collect::<BTreeSet<_>>().len(), all.len());
        for event in all {
            assert_eq!(event.name().parse(), Ok(event));
            let Words { italiano, inglese } = Words::of(&event.name());
            assert_eq!(event.words(), Words { italiano, inglese });
            assert_ne!(event.words(), Words::UNKNOWN, "{event}");
            for words in [italiano, inglese] {
                assert!(
                    words.len() > 15 && !words.ends_with('.') && !words.contains('|'),
                    "{event}: {words}"
                );
            }
        }
    }

    #[test]
    fn what_is_no_event_has_words_that_say_so() {
        for name in ["", "consegna", "Accesso", "ricevuta-", "ricevuta-estranea-", "ricevuta-preavviso-12"] {
            assert_eq!(name.parse::<Event>(), Err(UnknownEvent), "{name}");
            assert_eq!(Words::of(name), Words::UNKNOWN, "{name}");
        }
        let said = UnknownEvent.to_string();
        assert!(
            said.contains("accesso, ") && said.contains("registro-ritirato, ") && !said.contains('\n'),
            "{said}"
        );
    }

    /// What `identificativo` is in rows of this event.
    fn identificativo(event: Event) -> &'static str {
        match event {
            Event::Accesso | Event::Ricezione | Event::Notice(_) => "the message's",
            Event::Ricevuta(_) | Event::RicevutaEstranea(_) => "that of the message it is about",
            Event::Anomalia => "one of ours",
            Event::Violazione => "that of the message which breaks the rule",
            Event::Avvio
            | Event::Arresto
            | Event::Configurazione
            | Event::CertificatoGestore
            | Event::Interruzione
            | Event::Ripristino => "PROGRAM@HOST",
            Event::Orologio => "pec-clock@HOST",
            Event::ListaRevoche => "the list's address and date",
            Event::IndiceGestori => "the change",
            Event::FirmeAntivirus => "the scanner's version",
            Event::LetturaRegistro | Event::LetturaInfetti => "its own",
            Event::RegistroRipristinato => "registro FIRST-END, the leaves",
            Event::RegistroRitirato => "ritiro-YYYY-MM",
        }
    }

    #[test]
    fn the_documentation_has_this_table() {
        // Events of the same words share a line.
        let mut lines: Vec<(Words, &str, Vec<String>)> = Vec::new();
        for event in Event::all() {
            let name = format!("`{event}`");
            match lines.iter_mut().find(|(words, ..)| *words == event.words()) {
                Some((.., names)) => names.push(name),
                None => lines.push((event.words(), identificativo(event), vec![name])),
            }
        }
        let mut table =
            "| event | identificativo | in Italian | in English |\n| --- | --- | --- | --- |\n".to_owned();
        for (Words { italiano, inglese }, identificativo, names) in lines {
            let _ = writeln!(table, "| {} | {identificativo} | {italiano} | {inglese} |", names.join(", "));
        }
        let documentation =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/register-people.md"))
                .unwrap();
        assert!(documentation.contains(&table), "docs/register-people.md has this table:\n{table}");
    }
}
