//! Which notices there are, and what is known of each kind.
//!
//! Promise: what anybody asks of a kind stands here, but for its message (`pec_core::notices`), for what it
//! is made of and to whom it goes (pec-delivery's `notices.rs`), and for who decides that it is due. A kind
//! that is added compiles only when all but the last are there.

use pec_core::daticert::Tipo;

use crate::event::Figure;

pec_core::spelled! {
    /// Which notice a fact leads to. An envelope has one fact of a kind for each recipient; the names stand
    /// in the tables and in the addresses of triggers.
    FactKind {
        /// Ricevuta di accettazione.
        Accettazione = "accettazione",
        /// Avviso di non accettazione.
        NonAccettazione = "non-accettazione",
        /// Ricevuta di presa in carico.
        PresaInCarico = "presa-in-carico",
        /// Ricevuta di avvenuta consegna.
        AvvenutaConsegna = "avvenuta-consegna",
        /// Avviso di rilevazione virus.
        RilevazioneVirus = "rilevazione-virus",
        /// Avviso di mancata consegna, for a virus too.
        ErroreConsegna = "errore-consegna",
        /// Avviso di mancata consegna per superamento dei tempi massimi, after 12 hours.
        Preavviso12 = "preavviso-12",
        /// The same, after 24 hours.
        Preavviso24 = "preavviso-24",
    }
}

impl FactKind {
    /// The `tipo` of the notice's daticert.xml. What it is decides what a notice of this kind certifies: an
    /// outcome ends the wait for a recipient, a presa in carico ends the wait of twelve hours.
    pub fn tipo(self) -> Tipo {
        match self {
            Self::Accettazione => Tipo::Accettazione,
            Self::NonAccettazione => Tipo::NonAccettazione,
            Self::PresaInCarico => Tipo::PresaInCarico,
            Self::AvvenutaConsegna => Tipo::AvvenutaConsegna,
            Self::RilevazioneVirus => Tipo::RilevazioneVirus,
            Self::ErroreConsegna => Tipo::ErroreConsegna,
            Self::Preavviso12 | Self::Preavviso24 => Tipo::PreavvisoErroreConsegna,
        }
    }

    /// Whether it says how a message ended for a recipient.
    pub fn is_outcome(self) -> bool {
        self.tipo().is_outcome()
    }

    /// Whether pec-clock starts a notice of which nobody knows that it was handed over. The others come with
    /// a message that Postfix holds until then.
    pub fn is_started_by_clock(self) -> bool {
        match self {
            Self::ErroreConsegna | Self::RilevazioneVirus | Self::Preavviso12 | Self::Preavviso24 => true,
            Self::Accettazione | Self::NonAccettazione | Self::PresaInCarico | Self::AvvenutaConsegna => {
                false
            }
        }
    }

    /// Whether its notice has a time limit.
    pub fn has_deadline(self) -> bool {
        self.tipo() == Tipo::PreavvisoErroreConsegna
    }

    /// What `pecctl report` counts it as.
    pub(crate) fn figure(self) -> Option<Figure> {
        match self {
            Self::NonAccettazione => Some(Figure::Submission),
            Self::Accettazione => Some(Figure::Acceptance),
            Self::AvvenutaConsegna => Some(Figure::Delivery),
            Self::PresaInCarico
            | Self::RilevazioneVirus
            | Self::ErroreConsegna
            | Self::Preavviso12
            | Self::Preavviso24 => None,
        }
    }

    /// What it means, in Italian and in English, for somebody who knows neither the rules nor the programs. A
    /// sentence without its full stop.
    pub(crate) fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Accettazione => (
                "Il gestore ha accettato il messaggio e lo ha inoltrato: ricevuta di accettazione al mittente",
                "The provider accepted the message and sent it on: acceptance receipt to the sender",
            ),
            Self::NonAccettazione => (
                "Il gestore non ha accettato il messaggio: avviso di non accettazione al mittente",
                "The provider did not accept the message: non-acceptance notice to the sender",
            ),
            Self::PresaInCarico => (
                "Il gestore ha preso in carico la busta di trasporto: ricevuta di presa in carico al gestore \
                del mittente",
                "The provider took the transport envelope in charge: take-in-charge receipt to the sender's \
                provider",
            ),
            Self::AvvenutaConsegna => (
                "Il messaggio è nella casella del destinatario: ricevuta di avvenuta consegna al mittente",
                "The message is in the recipient's mailbox: delivery receipt to the sender",
            ),
            Self::RilevazioneVirus => (
                "Nella busta c'è un virus, nulla è stato consegnato: avviso di rilevazione virus al gestore del \
                mittente",
                "There is a virus in the envelope, nothing was delivered: virus detection notice to the \
                sender's provider",
            ),
            Self::ErroreConsegna => (
                "Il messaggio non può essere consegnato: avviso di mancata consegna al mittente",
                "The message cannot be delivered: non-delivery notice to the sender",
            ),
            Self::Preavviso12 => (
                "Dopo 12 ore nessuno ha certificato la consegna: primo avviso al mittente",
                "After 12 hours nobody has certified the delivery: first notice to the sender",
            ),
            Self::Preavviso24 => (
                "Dopo 24 ore nessuno ha certificato la consegna: avviso di mancata consegna al mittente",
                "After 24 hours nobody has certified the delivery: non-delivery notice to the sender",
            ),
        }
    }
}
