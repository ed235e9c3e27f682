//! What each event of the log means, in words for somebody who knows neither the rules nor the programs.

/// In Italian and in English.
pub(crate) fn words(event: &str) -> (&'static str, &'static str) {
    // A receipt that came from another provider is told as one.
    if event.starts_with("ricevuta-estranea-") {
        return (
            "È giunta da un altro gestore una ricevuta che riguarda un messaggio mai spedito da qui",
            "A receipt came from another provider about a message that was never sent from here",
        );
    }
    match event {
        "accesso" => (
            "Il gestore ha ricevuto il messaggio dal mittente e lo ha posto nella busta di trasporto",
            "The provider received the message from its sender and put it into a transport envelope",
        ),
        "accettazione" => (
            "Il gestore ha accettato il messaggio e lo ha inoltrato: ricevuta di accettazione al mittente",
            "The provider accepted the message and sent it on: acceptance receipt to the sender",
        ),
        "non-accettazione" => (
            "Il gestore non ha accettato il messaggio: avviso di non accettazione al mittente",
            "The provider did not accept the message: non-acceptance notice to the sender",
        ),
        "ricezione" => (
            "Il gestore del destinatario ha ricevuto e verificato la busta di trasporto",
            "The recipient's provider received the transport envelope and verified it",
        ),
        "presa-in-carico" => (
            "Il gestore ha preso in carico la busta di trasporto: ricevuta di presa in carico al gestore \
            del mittente",
            "The provider took the transport envelope in charge: take-in-charge receipt to the sender's \
            provider",
        ),
        "avvenuta-consegna" => (
            "Il messaggio è nella casella del destinatario: ricevuta di avvenuta consegna al mittente",
            "The message is in the recipient's mailbox: delivery receipt to the sender",
        ),
        "errore-consegna" => (
            "Il messaggio non può essere consegnato: avviso di mancata consegna al mittente",
            "The message cannot be delivered: non-delivery notice to the sender",
        ),
        "rilevazione-virus" => (
            "Nella busta c'è un virus, nulla è stato consegnato: avviso di rilevazione virus al gestore del \
            mittente",
            "There is a virus in the envelope, nothing was delivered: virus detection notice to the \
            sender's provider",
        ),
        "preavviso-12" => (
            "Dopo 12 ore nessuno ha certificato la consegna: primo avviso al mittente",
            "After 12 hours nobody has certified the delivery: first notice to the sender",
        ),
        "preavviso-24" => (
            "Dopo 24 ore nessuno ha certificato la consegna: avviso di mancata consegna al mittente",
            "After 24 hours nobody has certified the delivery: non-delivery notice to the sender",
        ),
        "ricevuta-presa-in-carico" => (
            "È giunta la ricevuta di presa in carico del gestore del destinatario",
            "The take-in-charge receipt of the recipient's provider came",
        ),
        "ricevuta-avvenuta-consegna" => (
            "È giunta la ricevuta di avvenuta consegna del gestore del destinatario",
            "The delivery receipt of the recipient's provider came",
        ),
        "ricevuta-errore-consegna" => (
            "È giunto l'avviso di mancata consegna del gestore del destinatario",
            "The non-delivery notice of the recipient's provider came",
        ),
        "ricevuta-rilevazione-virus" => (
            "È giunto l'avviso di rilevazione virus del gestore del destinatario",
            "The virus detection notice of the recipient's provider came",
        ),
        "anomalia" => (
            "È giunto un messaggio che non è posta certificata integra: busta di anomalia al destinatario",
            "A message came that is no intact certified mail: anomaly envelope to the recipient",
        ),
        "avvio" => ("Un programma del gestore è stato avviato", "A program of the provider was started"),
        "arresto" => ("Un programma del gestore è terminato", "A program of the provider ended"),
        "configurazione" => ("La configurazione è cambiata", "The configuration changed"),
        "certificato-gestore" => {
            ("Il gestore firma con un altro certificato", "The provider signs with another certificate")
        }
        "lista-revoche" => (
            "È in vigore una nuova lista dei certificati revocati",
            "A new list of revoked certificates is in force",
        ),
        "indice-gestori" => ("L'indice dei gestori è cambiato", "The directory of providers changed"),
        "firme-antivirus" => {
            ("Le firme dell'antivirus sono vecchie", "The virus scanner's signatures are old")
        }
        "interruzione" => ("Un servizio interno non risponde", "An internal service does not answer"),
        "ripristino" => ("Un servizio interno risponde di nuovo", "An internal service answers again"),
        "orologio" => (
            "L'orologio è stato confrontato con quello di riferimento",
            "The clock was compared with its reference",
        ),
        "lettura-registro" => ("Qualcuno ha consultato il registro", "Somebody read the log"),
        "lettura-infetti" => (
            "Qualcuno ha aperto l'archivio dei messaggi con virus",
            "Somebody opened the store of messages with viruses",
        ),
        event if event.starts_with("ricevuta-") => {
            ("È giunta una ricevuta di un altro gestore", "A receipt of another provider came")
        }
        _ => ("", ""),
    }
}
