//! Each message that a provider writes, held against RFC 6109: its header fields, its text, its parts, its
//! daticert.xml. The strings are those of the deployed network (docs/conformance.md says where they differ
//! from the RFC's).
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use pec_core::clock::Moment;
use pec_core::daticert::{Daticert, Destinatario, Errore, Tipo, TipoDestinatario, TipoRicevuta};
use pec_core::envelope::{claimed_type, contents, signed_parts};
use pec_core::header::{Field, Header};
use pec_core::message::Body;
use pec_core::mime;
use pec_core::notices::accettazione::accettazione;
use pec_core::notices::anomalia::{self, anomalia};
use pec_core::notices::avvenuta_consegna::avvenuta_consegna;
use pec_core::notices::busta::busta;
use pec_core::notices::mancata_consegna::{Causa, mancata_consegna, virus_status};
use pec_core::notices::non_accettazione::non_accettazione;
use pec_core::notices::preavviso::{Termine, preavviso};
use pec_core::notices::presa_in_carico::presa_in_carico;
use pec_core::notices::rilevazione_virus::rilevazione_virus;
use pec_core::notices::{Issuer, Notice};
use pec_core::smime::pem::PemSigner;
use pec_test_support::judges::xmllint_valid;
use pec_test_support::pki::{NOW, Pki};
use tempfile::TempDir;

const ADDRESS: &str = "posta-certificata@gestore.alfa.test";
const BRUNO: &str = "bruno@pec.beta.test";
const IDENTIFICATIVO: &str = "pec.20261118120640.0123456789abcdef0123@gestore.alfa.test";
const WHEN: &str = "18/11/2026 alle ore 12:06:40 (+0100)";
const ON: &str = "18/11/2026 at 12:06:40 (+0100)";
const DATE: &str = "Wed, 18 Nov 2026 12:06:40 +0100";
const ORIGINAL: &[u8] = b"From: anna@pec.alfa.test\r\nTo: bruno@pec.beta.test\r\nCc: \
    carla@posta.test\r\nMessage-ID: <1@client.test>\r\n\r\nCiao\r\n";
const RULE: &str =
    "-----------------------------------------------------------------------------------------";

/// A provider that writes all its messages about one original of Anna's, in the second [`NOW`].
struct Alfa {
    _directory: TempDir,
    signer: PemSigner,
    daticert: Daticert,
}

impl Alfa {
    fn new(oggetto: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let keys = Pki::new(directory.path()).provider("Alfa PEC S.p.A.", ADDRESS);
        let signer = keys.signer(ADDRESS, NOW).unwrap();
        let daticert = Daticert {
            tipo: Tipo::PostaCertificata,
            errore: Errore::Nessuno,
            mittente: "anna@pec.alfa.test".into(),
            destinatari: vec![
                Destinatario { indirizzo: BRUNO.into(), tipo: TipoDestinatario::Certificato },
                Destinatario { indirizzo: "carla@posta.test".into(), tipo: TipoDestinatario::Esterno },
            ],
            // Somebody else: no receipt may go there (RFC 6109 s. 2.1).
            risposte: "studio@studio.example".into(),
            oggetto: Some(oggetto.into()),
            gestore_emittente: "Alfa PEC S.p.A.".into(),
            data: Moment::from_unix(NOW),
            identificativo: IDENTIFICATIVO.into(),
            msgid: Some("<1@client.test>".into()),
            ricevuta: Some(TipoRicevuta::Completa),
            consegna: None,
            ricezione: vec![],
            errore_esteso: None,
        };
        Self { _directory: directory, signer, daticert }
    }

    fn issuer(&self) -> Issuer<'_> {
        Issuer { provider_name: "Alfa PEC S.p.A.", service_domain: "gestore.alfa.test", signer: &self.signer }
    }

    fn busta(&self, original: &[u8]) -> Notice {
        let (header, body) = original_parts(original);
        busta(self.issuer(), &self.daticert, &header, body, Field::written("Received", "here")).unwrap()
    }

    fn accettazione(&self) -> Notice {
        accettazione(self.issuer(), &self.daticert, "pec.1@gestore.alfa.test").unwrap()
    }

    fn non_accettazione(&self, errore: Errore, italiano: &str, inglese: &str) -> Notice {
        let mut daticert = self.daticert.about_same_message(
            Tipo::NonAccettazione,
            "Alfa PEC S.p.A.",
            Moment::from_unix(NOW),
        );
        daticert.errore = errore;
        daticert.errore_esteso = Some(italiano.into());
        non_accettazione(self.issuer(), &daticert, inglese, "pec.1@gestore.alfa.test").unwrap()
    }

    fn presa_in_carico(&self) -> Notice {
        let moment = Moment::from_unix(NOW);
        presa_in_carico(
            self.issuer(),
            &self.daticert,
            "ricevute@gestore.beta.test",
            &[BRUNO.into()],
            moment,
            "pec.1@gestore.alfa.test",
        )
        .unwrap()
    }

    fn avvenuta_consegna(&self, original: Option<&[u8]>) -> Notice {
        let (moment, original) = (Moment::from_unix(NOW), original.map(|o| Body::from_bytes(o.to_vec())));
        avvenuta_consegna(self.issuer(), &self.daticert, BRUNO, moment, original, "pec.1@gestore.alfa.test")
            .unwrap()
    }

    fn mancata_consegna(&self, status: &str) -> Notice {
        let causa = Causa::from_status(status);
        mancata_consegna(
            self.issuer(),
            &self.daticert,
            BRUNO,
            &causa,
            Moment::from_unix(NOW),
            "pec.1@gestore.alfa.test",
        )
        .unwrap()
    }

    fn rilevazione_virus(&self) -> Notice {
        let (to, at) = ("ricevute@gestore.beta.test", Moment::from_unix(NOW));
        rilevazione_virus(
            self.issuer(),
            &self.daticert,
            to,
            BRUNO,
            "Eicar-Test-Signature",
            at,
            "pec.1@gestore.alfa.test",
        )
        .unwrap()
    }

    fn preavviso(&self, termine: Termine) -> Notice {
        preavviso(
            self.issuer(),
            &self.daticert,
            BRUNO,
            termine,
            Moment::from_unix(NOW),
            "pec.1@gestore.alfa.test",
        )
        .unwrap()
    }

    fn anomalia(&self, original: &[u8]) -> Notice {
        let (header, body) = original_parts(original);
        let errore = anomalia::Errore::new("Firma non presente", "Signature missing");
        anomalia(self.issuer(), &header, body, "x@posta.test", &errore, Moment::from_unix(NOW), "seed")
            .unwrap()
    }

    /// Everything that carries a daticert.xml.
    fn with_daticert(&self) -> Vec<Notice> {
        vec![
            self.busta(ORIGINAL),
            self.accettazione(),
            self.non_accettazione(Errore::Altro, "campo From assente", "the From: field is missing"),
            self.non_accettazione(Errore::Virus, "Eicar-Test-Signature", "Eicar-Test-Signature"),
            self.presa_in_carico(),
            self.avvenuta_consegna(Some(ORIGINAL)),
            self.avvenuta_consegna(None),
            self.mancata_consegna("5.1.1"),
            self.mancata_consegna(&virus_status("Eicar-Test-Signature")),
            self.rilevazione_virus(),
            self.preavviso(Termine::DodiciOre),
            self.preavviso(Termine::VentiquattroOre),
        ]
    }
}

fn original_parts(original: &[u8]) -> (Header, Body) {
    let (end, start) = mime::header_end(original).unwrap();
    (Header::parse(&original[..end]).unwrap(), Body::from_bytes(original[start..].to_vec()))
}

/// One part of the signed content: its header, its content decoded.
struct Part {
    header: Header,
    content: Vec<u8>,
}

impl Part {
    fn attribute(&self, field: &str, name: &str) -> Option<String> {
        let field = if field == "Content-Type" {
            self.header.content_type()
        } else {
            self.header.content_disposition()
        };
        field.and_then(|f| f.attribute(name).map(str::to_owned))
    }

    fn media_type(&self) -> String {
        self.header.content_type().unwrap().essence
    }
}

/// The parts of a multipart, which the bytes at `range` of `bytes` are.
fn split(bytes: &[u8], range: std::ops::Range<usize>, media_type: &str) -> Vec<Part> {
    let entity = mime::part(bytes, range).unwrap();
    let media = entity.header.content_type().unwrap();
    assert_eq!(media.essence, media_type);
    let inside = &bytes[entity.body];
    let read = |range| {
        let part = mime::part(inside, range).unwrap();
        let content = mime::decoded(&part, inside).unwrap();
        Part { header: part.header, content }
    };
    mime::split(inside, media.attribute("boundary").unwrap(), 9).unwrap().into_iter().map(read).collect()
}

/// The parts of the signed content.
fn parts(notice: &Notice) -> Vec<Part> {
    let body = notice.body.clone().into_bytes();
    let content = signed_parts(&notice.header, &body).unwrap().content;
    split(&body, content, "multipart/mixed")
}

/// The plain text and the HTML.
fn texts(notice: &Notice) -> (String, String) {
    let first = parts(notice).remove(0);
    let entity = [first.header.to_bytes(), b"\r\n".to_vec(), first.content].concat();
    let both = split(&entity, 0..entity.len(), "multipart/alternative");
    let [plain, html] = &both[..] else { panic!("{} versions", both.len()) };
    for (part, media_type) in [(plain, "text/plain"), (html, "text/html")] {
        let charset = part.attribute("Content-Type", "charset").unwrap();
        assert_eq!(
            (part.media_type().as_str(), charset.to_ascii_lowercase().as_str()),
            (media_type, "iso-8859-1")
        );
    }
    let latin_1 =
        |part: &Part| part.content.iter().map(|&b| char::from(b)).filter(|&c| c != '\r').collect::<String>();
    (latin_1(plain), latin_1(html))
}

/// The header says exactly this, besides what makes it a signed MIME message.
#[track_caller]
fn has_header(notice: &Notice, expected: &[(&str, &str)]) {
    let mut found: Vec<_> = notice.header.fields().iter().map(|f| (f.name.as_str(), f.text())).collect();
    found.retain(|(name, _)| !matches!(*name, "MIME-Version" | "Content-Type" | "Message-ID"));
    let mut expected: Vec<_> = expected.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

/// The text is this in Italian; below the rule, in English, are the same moment, subject and identifier.
#[track_caller]
fn has_text(notice: &Notice, italian: &str) {
    let (plain, _) = texts(notice);
    let (italiano, inglese) = plain.split_once(RULE).unwrap();
    assert_eq!(italiano.trim_end(), italian.trim_start());
    let identifier =
        if notice.header.text("X-Trasporto").as_deref() == Some("errore") { "" } else { IDENTIFICATIVO };
    for said in [format!("On {ON}").as_str(), "\"Prova\"", identifier] {
        assert!(inglese.contains(said), "{said}: {inglese}");
    }
}

/// The text is this in Italian, and this in English.
#[track_caller]
fn has_texts(notice: &Notice, italian: &str, english: &str) {
    let (plain, _) = texts(notice);
    let (italiano, inglese) = plain.split_once(RULE).unwrap();
    assert_eq!((italiano.trim(), inglese.trim()), (italian.trim(), english.trim()));
}

#[test]
fn rfc6109_3_1_2_header_and_text_of_the_non_acceptance() {
    let notice = Alfa::new("Prova").non_accettazione(
        Errore::Altro,
        "campo From assente",
        "the From: field is missing",
    );
    has_header(
        &notice,
        &[
            ("X-Ricevuta", "non-accettazione"),
            ("Date", DATE),
            ("Subject", "AVVISO DI NON ACCETTAZIONE: Prova"),
            ("From", ADDRESS),
            ("To", "anna@pec.alfa.test"),
            ("X-Riferimento-Message-ID", "<1@client.test>"),
        ],
    );
    has_text(
        &notice,
        &format!(
            "
Errore nell'accettazione del messaggio
Il giorno {WHEN} nel messaggio
\"Prova\" proveniente da \"anna@pec.alfa.test\"
ed indirizzato a:
bruno@pec.beta.test
carla@posta.test
è stato rilevato un problema che ne impedisce l'accettazione
a causa di campo From assente.
Il messaggio non è stato accettato.
Identificativo messaggio: {IDENTIFICATIVO}"
        ),
    );
}

#[test]
fn rfc6109_3_1_3_header_and_text_of_the_non_acceptance_for_a_virus() {
    let notice =
        Alfa::new("Prova").non_accettazione(Errore::Virus, "Eicar-Test-Signature", "Eicar-Test-Signature");
    has_header(
        &notice,
        &[
            ("X-Ricevuta", "non-accettazione"),
            ("X-VerificaSicurezza", "errore"),
            ("Date", DATE),
            ("Subject", "AVVISO DI NON ACCETTAZIONE PER VIRUS: Prova"),
            ("From", ADDRESS),
            ("To", "anna@pec.alfa.test"),
            ("X-Riferimento-Message-ID", "<1@client.test>"),
        ],
    );
    has_text(
        &notice,
        &format!(
            "
Errore nell'accettazione del messaggio dovuto alla presenza di virus
Il giorno {WHEN} nel messaggio
\"Prova\" proveniente da \"anna@pec.alfa.test\"
ed indirizzato a:
bruno@pec.beta.test
carla@posta.test
è stato rilevato un problema di sicurezza Eicar-Test-Signature.
Il messaggio non è stato accettato.
Identificativo messaggio: {IDENTIFICATIVO}"
        ),
    );
}

#[test]
fn rfc6109_3_1_4_header_and_text_of_the_acceptance() {
    let notice = Alfa::new("Prova").accettazione();
    has_header(
        &notice,
        &[
            ("X-Ricevuta", "accettazione"),
            ("Date", DATE),
            ("Subject", "ACCETTAZIONE: Prova"),
            ("From", ADDRESS),
            ("To", "anna@pec.alfa.test"),
            ("X-Riferimento-Message-ID", "<1@client.test>"),
        ],
    );
    has_text(
        &notice,
        &format!(
            "
Ricevuta di accettazione
Il giorno {WHEN} il messaggio
\"Prova\" proveniente da \"anna@pec.alfa.test\"
ed indirizzato a:
bruno@pec.beta.test (\"posta certificata\")
carla@posta.test (\"posta ordinaria\")
Il messaggio è stato accettato dal sistema ed inoltrato.
Identificativo messaggio: {IDENTIFICATIVO}"
        ),
    );
}

#[test]
fn rfc6109_3_1_5_header_and_text_of_the_envelope() {
    let notice = Alfa::new("Prova").busta(ORIGINAL);
    has_header(
        &notice,
        &[
            ("X-Trasporto", "posta-certificata"),
            ("Date", DATE),
            ("Subject", "POSTA CERTIFICATA: Prova"),
            ("From", "\"Per conto di: anna@pec.alfa.test\" <posta-certificata@gestore.alfa.test>"),
            ("Reply-To", "anna@pec.alfa.test"),
            ("To", BRUNO),
            ("Cc", "carla@posta.test"),
            ("X-Riferimento-Message-ID", "<1@client.test>"),
            ("X-TipoRicevuta", "completa"),
        ],
    );
    assert_eq!(notice.header.text("Message-ID").unwrap(), format!("<{IDENTIFICATIVO}>"));
    has_text(
        &notice,
        &format!(
            "
Messaggio di posta certificata
Il giorno {WHEN} il messaggio
\"Prova\" è stato inviato da \"anna@pec.alfa.test\"
indirizzato a:
bruno@pec.beta.test
carla@posta.test
Il messaggio originale è incluso in allegato.
Identificativo messaggio: {IDENTIFICATIVO}"
        ),
    );
}

#[test]
fn rfc6109_2_1_1_2_the_envelope_inherits_fields_unmodified() {
    let original = b"Received: from a.test by b.test;\r\n\tThu, 19 Nov 2026 00:00:00 +0100\r\nReceived:  \
        from c.test by a.test\r\n\
        From: anna@pec.alfa.test\r\nSender: altra@pec.alfa.test\r\nTo:\t\"Bruno, B.\" \
        <bruno@pec.beta.test>,\r\n\t <Dario@pec.beta.test>\r\n\
        Cc:carla@posta.test\r\nReply-To: \"Studio\"\r\n  <studio@studio.example>\r\nX-Mailer: \
        x\r\n\r\nCiao\r\n";
    let notice = Alfa::new("Prova").busta(original);
    let (header, _) = original_parts(original);
    for name in ["Received", "To", "Cc", "Reply-To"] {
        assert!(header.first(name).is_some() && notice.header.all(name).eq(header.all(name)), "{name}");
    }
    assert_eq!((notice.header.first("Sender"), notice.header.first("X-Mailer")), (None, None));
}

#[test]
fn rfc6109_3_1_6_header_and_text_of_the_notices_of_a_timeout() {
    let alfa = Alfa::new("Prova");
    let (dodici, ventiquattro) =
        (alfa.preavviso(Termine::DodiciOre), alfa.preavviso(Termine::VentiquattroOre));
    for notice in [&dodici, &ventiquattro] {
        has_header(
            notice,
            &[
                ("X-Ricevuta", "preavviso-errore-consegna"),
                ("Date", DATE),
                ("Subject", "AVVISO DI MANCATA CONSEGNA PER SUP. TEMPO MASSIMO: Prova"),
                ("From", ADDRESS),
                ("To", "anna@pec.alfa.test"),
                ("X-Riferimento-Message-ID", "<1@client.test>"),
            ],
        );
    }
    has_texts(
        &dodici,
        &format!(
            "
Avviso di mancata consegna
Il giorno {WHEN} il messaggio
\"Prova\" proveniente da \"anna@pec.alfa.test\"
e destinato all'utente \"bruno@pec.beta.test\"
non è stato consegnato nelle prime dodici ore dal suo invio. Non escludendo
che questo possa avvenire in seguito, si ritiene utile considerare che l'invio
potrebbe non andare a buon fine. Il sistema provvederà comunque ad inviare
un ulteriore avviso di mancata consegna se nelle prossime dodici ore non vi
sarà la conferma della ricezione da parte del destinatario.
Identificativo messaggio: {IDENTIFICATIVO}"
        ),
        &format!(
            "
Non delivery PEC notification
On {ON} the message
\"Prova\" originating from \"anna@pec.alfa.test\"
and addressed to \"bruno@pec.beta.test\"
has not been delivered within the first 12 hours following its dispatch.
Not excluding that the message might eventually be delivered, it is deemed
useful to consider that dispatch might not have a positive outcome. The system
will see to sending another non-delivery PEC notification if in the following
twelve hours no confirmation is received from the recipient.
Message identifier: {IDENTIFICATIVO}"
        ),
    );
    has_texts(
        &ventiquattro,
        &format!(
            "
Avviso di mancata consegna
Il giorno {WHEN} il messaggio
\"Prova\" proveniente da \"anna@pec.alfa.test\"
e destinato all'utente \"bruno@pec.beta.test\"
non è stato consegnato nelle ventiquattro ore successive al suo invio.
Si ritiene che la spedizione debba considerarsi non andata a buon fine.
Identificativo messaggio: {IDENTIFICATIVO}"
        ),
        &format!(
            "
Non delivery PEC notification
On {ON} the message
\"Prova\" originating from \"anna@pec.alfa.test\"
and addressed to \"bruno@pec.beta.test\"
has not been delivered within 24 hours of its dispatch.
The transaction is deemed to be considered terminated with a negative outcome.
Message identifier: {IDENTIFICATIVO}"
        ),
    );
}

#[test]
fn rfc6109_3_2_3_header_and_text_of_the_virus_detection() {
    let notice = Alfa::new("Prova").rilevazione_virus();
    has_header(
        &notice,
        &[
            ("X-Ricevuta", "rilevazione-virus"),
            ("X-Mittente", "anna@pec.alfa.test"),
            ("Date", DATE),
            ("Subject", "PROBLEMA DI SICUREZZA: Prova"),
            ("From", ADDRESS),
            ("To", "ricevute@gestore.beta.test"),
            ("X-Riferimento-Message-ID", "<1@client.test>"),
        ],
    );
    has_texts(
        &notice,
        &format!(
            "
Avviso di rilevazione virus informatico
Il giorno {WHEN} nel messaggio
\"Prova\" proveniente da \"anna@pec.alfa.test\"
e destinato all'utente \"bruno@pec.beta.test\"
è stato rilevato un problema di sicurezza Eicar-Test-Signature.
Identificativo messaggio: {IDENTIFICATIVO}"
        ),
        &format!(
            "
Virus detection PEC notification
On {ON} in the message
\"Prova\" from \"anna@pec.alfa.test\"
and addressed to \"bruno@pec.beta.test\"
a security problem was detected Eicar-Test-Signature.
Message identifier: {IDENTIFICATIVO}"
        ),
    );
}

#[test]
fn rfc6109_3_2_4_header_and_text_of_the_non_delivery_for_a_virus() {
    let notice = Alfa::new("Prova").mancata_consegna(&virus_status("Eicar-Test-Signature"));
    has_header(
        &notice,
        &[
            ("X-Ricevuta", "errore-consegna"),
            ("X-VerificaSicurezza", "errore"),
            ("Date", DATE),
            ("Subject", "AVVISO DI MANCATA CONSEGNA PER VIRUS: Prova"),
            ("From", ADDRESS),
            ("To", "anna@pec.alfa.test"),
            ("X-Riferimento-Message-ID", "<1@client.test>"),
        ],
    );
    has_texts(
        &notice,
        &format!(
            "
Avviso di mancata consegna per virus informatico
Il giorno {WHEN} nel messaggio
\"Prova\" destinato all'utente \"bruno@pec.beta.test\"
è stato rilevato un problema di sicurezza Eicar-Test-Signature.
Il messaggio non è stato consegnato.
Identificativo messaggio: {IDENTIFICATIVO}"
        ),
        &format!(
            "
Delivery error PEC notification due to virus
On {ON} in the message
\"Prova\" addressed to \"bruno@pec.beta.test\"
a security problem was detected Eicar-Test-Signature.
The message was not delivered.
Message identifier: {IDENTIFICATIVO}"
        ),
    );
}

#[test]
fn rfc6109_3_2_1_header_and_text_of_the_presa_in_carico() {
    let notice = Alfa::new("Prova").presa_in_carico();
    has_header(
        &notice,
        &[
            ("X-Ricevuta", "presa-in-carico"),
            ("Date", DATE),
            ("Subject", "PRESA IN CARICO: Prova"),
            ("From", ADDRESS),
            ("To", "ricevute@gestore.beta.test"),
            ("X-Riferimento-Message-ID", "<1@client.test>"),
        ],
    );
    has_text(
        &notice,
        &format!(
            "
Ricevuta di presa in carico
Il giorno {WHEN} il messaggio
\"Prova\" proveniente da \"anna@pec.alfa.test\"
ed indirizzato a:
bruno@pec.beta.test
è stato accettato dal sistema.
Identificativo messaggio: {IDENTIFICATIVO}"
        ),
    );
}

#[test]
fn rfc6109_3_2_2_header_and_text_of_the_anomaly_envelope() {
    let original = b"Received: from x\r\nReturn-Path: <x@posta.test>\r\nFrom: X <x@posta.test>\r\nTo: \
            bruno@pec.beta.test\r\nCc: dario@pec.beta.test\r\n\
        Subject: Prova\r\nMessage-ID: <1@x>\r\nX-Mailer: x\r\n\r\nCiao\r\n";
    let notice = Alfa::new("Prova").anomalia(original);
    has_header(
        &notice,
        &[
            ("Received", "from x"),
            ("Return-Path", "<x@posta.test>"),
            ("To", BRUNO),
            ("Cc", "dario@pec.beta.test"),
            ("X-Trasporto", "errore"),
            ("Date", DATE),
            ("Subject", "ANOMALIA MESSAGGIO: Prova"),
            ("From", "\"Per conto di: x@posta.test\" <posta-certificata@gestore.alfa.test>"),
            ("Reply-To", "x@posta.test"),
        ],
    );
    assert_eq!(notice.header.text("Message-ID").as_deref(), Some("<1@x>"));
    has_text(
        &notice,
        &format!(
            "
Anomalia nel messaggio
Il giorno {WHEN} è stato ricevuto
il messaggio \"Prova\" proveniente da \"x@posta.test\"
ed indirizzato a:
bruno@pec.beta.test
dario@pec.beta.test
Tali dati non sono stati certificati per il seguente errore:
Firma non presente
Il messaggio originale è incluso in allegato."
        ),
    );
    // "Reply-To: [original sender (inserted only if not already present)]"
    let with_reply_to = [b"Reply-To: altri@posta.test\r\n", &original[..]].concat();
    assert_eq!(
        Alfa::new("Prova").anomalia(&with_reply_to).header.text("Reply-To").as_deref(),
        Some("altri@posta.test")
    );
}

#[test]
fn rfc6109_3_3_2_header_and_text_of_the_delivery_receipt() {
    let alfa = Alfa::new("Prova");
    for original in [Some(ORIGINAL), None] {
        let notice = alfa.avvenuta_consegna(original);
        has_header(
            &notice,
            &[
                ("X-Ricevuta", "avvenuta-consegna"),
                ("Date", DATE),
                ("Subject", "CONSEGNA: Prova"),
                ("From", ADDRESS),
                ("To", "anna@pec.alfa.test"),
                ("X-Riferimento-Message-ID", "<1@client.test>"),
            ],
        );
        has_text(
            &notice,
            &format!(
                "
Ricevuta di avvenuta consegna
Il giorno {WHEN} il messaggio
\"Prova\" proveniente da \"anna@pec.alfa.test\"
ed indirizzato a \"bruno@pec.beta.test\"
è stato consegnato nella casella di destinazione.
Identificativo messaggio: {IDENTIFICATIVO}"
            ),
        );
    }
}

#[test]
fn rfc6109_3_3_3_header_and_text_of_the_non_delivery() {
    let notice = Alfa::new("Prova").mancata_consegna("5.1.1");
    has_header(
        &notice,
        &[
            ("X-Ricevuta", "errore-consegna"),
            ("Date", DATE),
            ("Subject", "AVVISO DI MANCATA CONSEGNA: Prova"),
            ("From", ADDRESS),
            ("To", "anna@pec.alfa.test"),
            ("X-Riferimento-Message-ID", "<1@client.test>"),
        ],
    );
    has_text(
        &notice,
        &format!(
            "
Avviso di mancata consegna
Il giorno {WHEN} nel messaggio
\"Prova\" proveniente da \"anna@pec.alfa.test\"
e destinato all'utente \"bruno@pec.beta.test\"
è stato rilevato un errore 5.1.1 - Alfa PEC S.p.A. - indirizzo non valido.
Il messaggio è stato rifiutato dal sistema.
Identificativo messaggio: {IDENTIFICATIVO}"
        ),
    );
}

#[test]
fn rfc6109_4_3_the_parts_of_what_is_signed() {
    let alfa = Alfa::new("Perché «così» — 日本");
    for notice in alfa.with_daticert() {
        let body = notice.body.clone().into_bytes();
        assert!(body.is_ascii(), "what is 7-bit stays so, and the texts and the XML are encoded");
        let parts = parts(&notice);
        let [text, xml, rest @ ..] = &parts[..] else { panic!("{} parts", parts.len()) };
        assert_eq!(text.media_type(), "multipart/alternative");
        assert_eq!(xml.media_type(), "application/xml");
        for (field, name) in [("Content-Type", "name"), ("Content-Disposition", "filename")] {
            assert_eq!(xml.attribute(field, name).as_deref(), Some("daticert.xml"));
            assert!(rest.iter().all(|p| p.media_type() == "message/rfc822"
                && p.attribute(field, name).as_deref() == Some("postacert.eml")));
        }
        let xml = String::from_utf8(xml.content.clone()).unwrap();
        assert!(
            xml.starts_with("<?xml version=\"1.0\" encoding=\"UTF-8\"?>")
                && xml.contains("<oggetto>Perché «così» — 日本</oggetto>"),
            "{xml}"
        );
        let tipo = claimed_type(&notice.header).unwrap();
        assert!(
            matches!((rest.len(), tipo), (1, Tipo::PostaCertificata | Tipo::AvvenutaConsegna) | (0, _)),
            "{tipo}: {} parts",
            parts.len()
        );
    }
    let parts = parts(&alfa.anomalia(ORIGINAL));
    let kinds: Vec<_> = parts.iter().map(Part::media_type).collect();
    assert_eq!(kinds, ["multipart/alternative", "message/rfc822"], "an anomaly envelope certifies nothing");
    assert_eq!(parts[1].content, ORIGINAL);
}

/// The text of an HTML page, line by line, without its title.
fn shown(html: &str) -> Vec<String> {
    let body = &html[html.find("<body>").unwrap()..];
    let mut text = String::new();
    for piece in body.split('<').skip(1) {
        text += piece.split_once('>').unwrap().1;
    }
    let mut plain = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once('&') {
        let (entity, after) = after.split_once(';').unwrap();
        plain += before;
        plain.push(match entity {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            number => char::from_u32(number.strip_prefix('#').unwrap().parse().unwrap()).unwrap(),
        });
        rest = after;
    }
    plain += rest;
    lines(&plain)
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && *line != RULE).map(str::to_owned).collect()
}

#[test]
fn rfc6109_4_3_1_html_holds_what_the_text_holds_and_nothing_that_is_fetched_or_runs() {
    let nasty = "<script>alert(1)</script> <img src=\"http://x.test/\" onerror=x> <a href='javascript:x'> & \
        &lt; è — 日本";
    let alfa = Alfa::new(nasty);
    let mut all = alfa.with_daticert();
    all.push(alfa.anomalia(&[b"Subject: <script src=x>\r\n", ORIGINAL].concat()));
    for notice in all {
        let (plain, html) = texts(&notice);
        for tag in html.split('<').skip(1).map(|piece| piece.split_once('>').unwrap().0) {
            let name = tag.strip_prefix('/').unwrap_or(tag);
            assert!(
                ["html", "head", "title", "body", "h3", "br", "hr"].contains(&name),
                "no other element, and no attribute: {tag}"
            );
        }
        let as_latin_1 =
            |line: String| line.chars().map(|c| if u32::from(c) > 255 { '?' } else { c }).collect::<String>();
        assert_eq!(shown(&html).into_iter().map(as_latin_1).collect::<Vec<_>>(), lines(&plain));
    }
}

#[test]
fn rfc6109_4_4_every_type_of_message_is_valid_against_the_dtd() {
    let alfa = Alfa::new("Prova");
    for notice in alfa.with_daticert() {
        let body = notice.body.clone().into_bytes();
        let tipo = claimed_type(&notice.header).unwrap();
        let daticert =
            contents(&body, signed_parts(&notice.header, &body).unwrap().content, tipo).unwrap().daticert;
        xmllint_valid(&daticert.to_xml()).unwrap();
        assert_eq!(
            (daticert.identificativo.as_str(), daticert.msgid.as_deref()),
            (IDENTIFICATIVO, Some("<1@client.test>"))
        );
        assert_eq!((daticert.destinatari.len(), daticert.risposte.as_str()), (2, "studio@studio.example"));
        let has = (
            daticert.ricevuta.is_some(),
            daticert.consegna.is_some(),
            daticert.ricezione.len(),
            daticert.errore_esteso.is_some(),
        );
        let expected = match tipo {
            Tipo::PostaCertificata => (true, false, 0, false),
            Tipo::AvvenutaConsegna => (true, true, 0, false),
            Tipo::PresaInCarico => (false, false, 1, false),
            Tipo::ErroreConsegna | Tipo::PreavvisoErroreConsegna | Tipo::RilevazioneVirus => {
                (false, true, 0, true)
            }
            Tipo::NonAccettazione => (false, false, 0, true),
            _ => (false, false, 0, false),
        };
        assert_eq!(has, expected, "{tipo}");
    }
    // What the DTD allows and no message here has.
    for errore in ["nessuno", "no-dest", "no-dominio", "virus", "altro"] {
        let daticert = Daticert {
            tipo: Tipo::RilevazioneVirus,
            errore: errore.parse().unwrap(),
            ..alfa.daticert.clone()
        };
        xmllint_valid(&daticert.to_xml()).unwrap();
    }
    assert!(
        xmllint_valid(&alfa.daticert.to_xml().replace("<risposte>studio@studio.example</risposte>", ""))
            .is_err(),
        "the judge judges"
    );
}

#[test]
fn rfc6109_3_1_5_the_xml_part_alone_is_read() {
    let notice = Alfa::new("Prova").busta(ORIGINAL);
    let body = String::from_utf8(notice.body.clone().into_bytes().to_vec()).unwrap();
    let (text, rest) = body.split_once("application/xml").unwrap();
    let changed = text.replace(BRUNO, "altro@pec.beta.test").replace("anna@", "altra@");
    assert_ne!(changed, text);
    let changed = Bytes::from(format!("{changed}application/xml{rest}"));
    let content = signed_parts(&notice.header, &changed).unwrap().content;
    let daticert = contents(&changed, content, Tipo::PostaCertificata).unwrap().daticert;
    assert_eq!(
        (daticert.mittente.as_str(), daticert.destinatari[0].indirizzo.as_str()),
        ("anna@pec.alfa.test", BRUNO)
    );
}
