//! What arrives from outside: the table. Each line is a message and what RFC 6109 s. 2.2.2 and 3.2 make of
//! it.

use cms::signed_data::SignedData;
use openssl::cms::{CMSOptions, CmsContentInfo};
use openssl::stack::Stack;
use openssl::x509::extension::KeyUsage;
use pec_core::header::Field;
use pec_test_support::pki::{NOW, Pki};
use pec_test_support::postfix::Mail;

use crate::forge::{
    ALFA_SIGNS, ANNA, BRUNO, Forger, Forgery, IssuedBy, Profile, changed_cms, forger, signature,
};
use crate::numbered;

/// What becomes of an arrival.
#[derive(Debug, Clone)]
pub enum Incoming {
    /// Taken in charge: delivered as it came, a trigger for the presa in carico, nothing else.
    Taken,
    /// Delivered as it came, written down as a receipt about an envelope of ours.
    Receipt,
    /// Delivered as it came; it changes nothing.
    Stranger,
    /// Put whole into a busta di anomalia that says this; nothing is certified.
    Anomaly(&'static str),
    /// SMTP says no, with this code and status.
    Refused(&'static str),
}

use Incoming::{Anomaly, Receipt, Refused, Stranger, Taken};

/// Media types of the whole that programs read in different ways: the parts lie between lines of `s`.
const ODD_MEDIA: [(&str, &str); 17] = [
    ("a comment before the boundary's sign", "TYPE; boundary (c)=\"EVIL\"; boundary=\"s\""),
    ("a comment in the boundary", "TYPE; boundary=(c)\"s\""),
    ("a comment with a boundary in it", "TYPE (; boundary=EVIL); boundary=\"s\""),
    ("a comment in a comment", "TYPE; a=b ((c); boundary=EVIL); boundary=\"s\""),
    ("an empty boundary before its value", "TYPE; boundary=\"\"EVIL; boundary=\"s\""),
    ("two boundaries", "TYPE; boundary=\"s\"; boundary=\"EVIL\""),
    ("two boundaries the other way round", "TYPE; boundary=\"EVIL\"; boundary=\"s\""),
    ("a second boundary in capitals", "TYPE; boundary=\"s\"; BOUNDARY=EVIL"),
    ("a boundary in RFC 2231's writing", "TYPE; boundary*=us-ascii''EVIL; boundary=\"s\""),
    ("a boundary in RFC 2231's pieces", "TYPE; boundary*0=EV; boundary*1=IL; boundary=\"s\""),
    ("a boundary whose quote never closes", "TYPE; boundary=\"s"),
    ("a boundary with words behind it", "TYPE; boundary=\"s\" EVIL"),
    ("a boundary with a backslash", "TYPE; boundary=\"\\s\""),
    ("a vertical tab", "TYPE;\u{b}boundary=\"s\""),
    ("two protocols", "TYPE; protocol=\"text/html\"; boundary=\"s\""),
    ("no protocol", "multipart/signed; boundary=\"s\""),
    ("a comma for the semicolon", "TYPE, boundary=\"s\""),
];

/// One line of the table.
pub struct Arrival {
    /// What it tries.
    pub kind: &'static str,
    /// What is odd about it.
    pub name: String,
    /// The message as Postfix hands it to the milter.
    pub mail: Mail,
    /// What becomes of it.
    pub expect: Incoming,
}

/// Who can sign what.
pub struct Hands {
    /// Alfa, with a correct certificate that is in the directory.
    pub alfa: Forger,
    /// All certificates that the directory has to name as Alfa's.
    pub of_alfa: Vec<String>,
    profiles: Vec<(&'static str, Forger, Incoming)>,
    not_listed: Forger,
    unknown_ca: Forger,
}

const NOT_SIGNED: &str = "Firma non presente o non autentica";

/// The identifier of the envelope of Alfa's that the receipts are about.
pub const SENT: &str = "pec.20261118.0123456789@gestore.beta.test";

impl Hands {
    /// Makes the keys and certificates: RFC 6109 s. 5.5 broken one rule at a time.
    pub fn new(pki: &Pki) -> Self {
        let good = Profile::default;
        let alfa = forger(pki, &good());
        let usage = |build: &dyn Fn(&mut KeyUsage)| {
            let mut usage = KeyUsage::new();
            build(&mut usage);
            Some(usage)
        };
        let san = |addresses: &[&str]| addresses.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>();
        let from = "indirizzo del certificato";
        // What 5.5 forbids and X.509 allows does not make a message less authentic: RFC 6109 s. 2.2.2 asks
        // for existence, origin and validity of the signature. What makes the certificate no good for signing
        // mail does.
        let profiles: Vec<(&'static str, Profile, Incoming)> = vec![
            (
                "5.5.1 the address is in the subject, too",
                Profile { subject_email: Some(ALFA_SIGNS.into()), ..good() },
                Taken,
            ),
            (
                "5.5.1 the address is in the subject alone",
                Profile { san: vec![], subject_email: Some(ALFA_SIGNS.into()), ..good() },
                Anomaly(from),
            ),
            ("5.5.2 no subjectAltName", Profile { san: vec![], ..good() }, Anomaly(from)),
            (
                "5.5.2 a host name for an address",
                Profile { san: vec![], san_dns: Some("gestore.alfa.test".into()), ..good() },
                Anomaly(from),
            ),
            (
                "5.5.2 another address",
                Profile { san: san(&["altro@gestore.alfa.test"]), ..good() },
                Anomaly(from),
            ),
            (
                "5.5.2 two addresses, one of them the right one",
                Profile { san: san(&["altro@x.test", ALFA_SIGNS]), ..good() },
                Taken,
            ),
            (
                "5.5.2 the address in capitals",
                Profile { san: san(&["POSTA-CERTIFICATA@GESTORE.ALFA.TEST"]), ..good() },
                Taken,
            ),
            (
                "5.5.2 an address that begins like the right one",
                Profile { san: san(&["posta-certificata@gestore.alfa.test.altri.test"]), ..good() },
                Anomaly(from),
            ),
            ("5.5.2 a critical subjectAltName", Profile { san_critical: true, ..good() }, Taken),
            ("5.5.2 no keyUsage", Profile { key_usage: None, ..good() }, Taken),
            (
                "5.5.2 a keyUsage that is not critical",
                Profile {
                    key_usage: usage(&|u| {
                        u.digital_signature();
                    }),
                    ..good()
                },
                Taken,
            ),
            (
                "5.5.2 a keyUsage without digitalSignature",
                Profile {
                    key_usage: usage(&|u| {
                        u.critical().key_encipherment();
                    }),
                    ..good()
                },
                Anomaly(NOT_SIGNED),
            ),
            (
                "5.5.2 a keyUsage for signing certificates",
                Profile {
                    key_usage: usage(&|u| {
                        u.critical().key_cert_sign().crl_sign();
                    }),
                    ..good()
                },
                Anomaly(NOT_SIGNED),
            ),
            (
                "5.5.2 an extendedKeyUsage of web servers",
                Profile { extended: Some("serverAuth"), ..good() },
                Anomaly(NOT_SIGNED),
            ),
            (
                "5.5.2 an extendedKeyUsage of mail",
                Profile { extended: Some("emailProtection"), ..good() },
                Taken,
            ),
            ("5.5.2 basicConstraints", Profile { basic_constraints: Some(false), ..good() }, Taken),
            (
                "5.5.2 basicConstraints that say CA",
                Profile { basic_constraints: Some(true), ..good() },
                Taken,
            ),
            ("5.5.2 no subjectKeyIdentifier", Profile { subject_key_identifier: false, ..good() }, Taken),
            ("5.5.2 no authorityKeyIdentifier", Profile { authority_key_identifier: false, ..good() }, Taken),
            ("5.5.2 an extension that nobody knows", Profile { unknown: Some(false), ..good() }, Taken),
            (
                "5.5.2 a critical extension that nobody knows",
                Profile { unknown: Some(true), ..good() },
                Anomaly(NOT_SIGNED),
            ),
            ("expired", Profile { to: NOW - 3600, ..good() }, Anomaly(NOT_SIGNED)),
            ("not valid yet", Profile { from: NOW + 3600, ..good() }, Anomaly(NOT_SIGNED)),
            (
                "issued by itself",
                Profile { issuer: IssuedBy::Itself, chain: false, ..good() },
                Anomaly(NOT_SIGNED),
            ),
            (
                "issued by a CA of the right name with another key",
                Profile { issuer: IssuedBy::FalseCa, ..good() },
                Anomaly(NOT_SIGNED),
            ),
            (
                "issued by a provider, who is no CA",
                Profile { issuer: IssuedBy::Other(Box::new(alfa.clone())), ..good() },
                Anomaly(NOT_SIGNED),
            ),
            (
                "the issuing CA is not sent along, and not known",
                Profile { chain: false, ..good() },
                Anomaly(NOT_SIGNED),
            ),
            ("an RSA key of 512 bits", Profile { bits: 512, ..good() }, Anomaly(NOT_SIGNED)),
        ];
        let profiles: Vec<_> = profiles
            .into_iter()
            .map(|(name, profile, expect)| (name, forger(pki, &profile), expect))
            .collect();
        let directory = tempfile::tempdir().unwrap();
        let unknown_ca = forger(&Pki::new(directory.path()), &good());
        let of_alfa = profiles
            .iter()
            .map(|(_, f, _)| f.sha1.clone())
            .chain([alfa.sha1.clone(), unknown_ca.sha1.clone()])
            .collect();
        Self { alfa, of_alfa, profiles, not_listed: forger(pki, &good()), unknown_ca }
    }
}

/// An ordinary letter.
fn ordinary(header: &[u8], body: &[u8]) -> Mail {
    let mut mail = Mail { account: None, ..Mail::submitted("x@posta.test", &[BRUNO], b"\n") };
    mail.header.fields_mut().clear();
    for line in header.split(|&b| b == b'\n').filter(|l| !l.is_empty()) {
        let colon = line.iter().position(|&b| b == b':').unwrap();
        mail.header.push(Field {
            name: String::from_utf8(line[..colon].to_vec()).unwrap(),
            value: line[colon + 1..].replace_lf(),
        });
    }
    mail.body = body.to_vec();
    mail
}

trait ReplaceLf {
    fn replace_lf(&self) -> Vec<u8>;
}

impl ReplaceLf for [u8] {
    /// U+0001 stands for a fold.
    fn replace_lf(&self) -> Vec<u8> {
        self.iter().flat_map(|&b| if b == 1 { b"\r\n ".to_vec() } else { vec![b] }).collect()
    }
}

fn from(mail: Mail, sender: &str) -> Mail {
    Mail { sender: sender.to_owned(), ..mail }
}

fn to(mail: Mail, recipients: &[&str]) -> Mail {
    Mail { recipients: recipients.iter().map(|r| (*r).to_owned()).collect(), ..mail }
}

type Row<'a> = &'a mut dyn FnMut(&'static str, &str, Mail, Incoming);

/// All arrivals at Beta.
pub fn arrivals(hands: &Hands) -> Vec<Arrival> {
    let mut table: Vec<Arrival> = Vec::new();
    let mut row = |kind: &'static str, name: &str, mail: Mail, expect: Incoming| {
        table.push(Arrival { kind, name: name.to_owned(), mail, expect })
    };
    ordinary_mail(&mut row);
    forged(&mut row, hands);
    headers(&mut row, hands);
    xml(&mut row, hands);
    contents(&mut row, hands);
    signatures(&mut row, hands);
    for (name, forger, expect) in &hands.profiles {
        row("certificates (RFC 6109 s. 5.5)", name, Forgery::envelope(name).signed(forger), expect.clone());
    }
    receipts(&mut row, hands);
    table
}

#[allow(clippy::too_many_lines)]
fn ordinary_mail(row: Row<'_>) {
    let plain = || {
        ordinary(
            b"From: x@posta.test\nTo: bruno@pec.beta.test\nSubject: Prova\nMessage-ID: <1@posta.test>",
            b"Ciao\r\n",
        )
    };
    let anomaly = || Anomaly(NOT_SIGNED);
    let mut header = |name: &str, header: &[u8]| {
        row("ordinary mail: header", name, ordinary(header, b"Ciao\r\n"), anomaly())
    };
    header("none at all", b"");
    header("nothing that a header needs", b"X: y");
    header(
        "Latin-1 everywhere",
        b"From: \xe0 <x@posta.test>\nTo: \xe8 <bruno@pec.beta.test>\nSubject: citt\xe0\nCc: \
            \xff\nMessage-ID: <\xe0@x>\nReply-To: \xe0",
    );
    header(
        "a subject with a line break in encoded words",
        b"Subject: =?utf-8?q?x=0D=0AX-Trasporto:_posta-certificata=0D=0A=0D=0Ax?=",
    );
    header("a subject of a charset that nobody knows", b"Subject: =?x-y?b?/////w==?=");
    header(
        "a subject of 50,000 letters",
        format!("Subject: {}", vec!["parola".repeat(120); 60].join("\u{1}")).as_bytes(),
    );
    header(
        "a subject that is one of ours",
        b"Subject: POSTA CERTIFICATA: ACCETTAZIONE: ANOMALIA \
        MESSAGGIO:",
    );
    header("a sender who is none", b"From: nessuno\nTo: bruno@pec.beta.test");
    header(
        "a sender whose name would close ours",
        b"From: \"\\\" <posta-certificata@gestore.alfa.test>, \\\"\" <x@posta.test>",
    );
    header("forty senders", format!("From: {}", numbered("x", "@posta.test", 40).join(", ")).as_bytes());
    header("From twice", b"From: x@posta.test\nFrom: y@posta.test");
    header("To ten times", "To: bruno@pec.beta.test\n".repeat(10).as_bytes());
    header(
        "3,000 recipients in To",
        format!(
            "To: {}",
            numbered("x", "@posta.test", 3000)
                .chunks(20)
                .map(|c| c.join(","))
                .collect::<Vec<_>>()
                .join(",\u{1}")
        )
        .as_bytes(),
    );
    header("comments in comments in To", format!("To: {}{}", "(".repeat(450), ")".repeat(450)).as_bytes());
    header(
        "a Message-ID of 20,000 letters that do not repeat",
        format!("Message-ID: <{}@x.test>", noise(20_000, "\u{1}")).as_bytes(),
    );
    header("two Message-IDs", b"Message-ID: <1@x.test>\nMessage-ID: <2@x.test>");
    header("a date that is none", b"Date: Xyz, 99 Foo 99999 77:88:99 +9999");
    header(
        "fields that sound like ours",
        b"X-Pec-Custody: 00\nX-Pec-Notice: avvenuta-consegna\nX-Pec-Custody: 01\nX-Envelope-Id: 00",
    );
    header("900 fields", "X: y\n".repeat(900).as_bytes());
    header("names of odd letters", b"!#$%&'*+-.^_`|~\"(),/;<=>?@[]{}\\: x");
    header("says that it is signed", b"Content-Type: multipart/signed");
    header(
        "says that it is signed, twice",
        b"Content-Type: text/plain\nContent-Type: multipart/signed; boundary=s",
    );
    header(
        "says in 300 parameters that it is signed",
        format!("Content-Type: multipart/signed{}", "; boundary=s".repeat(300)).as_bytes(),
    );
    header("a media type that is none", b"Content-Type: ;;;=;\"");

    let kind = "ordinary mail: body";
    let with = |content_type: &str, body: Vec<u8>| {
        ordinary(format!("From: x@posta.test\nContent-Type: {content_type}").as_bytes(), &body)
    };
    let deep: String = (0..1000)
        .map(|i| format!("--b{i}\r\nContent-Type: multipart/mixed; boundary=b{}\r\n\r\n", i + 1))
        .collect();
    row(kind, "none", ordinary(b"From: x@posta.test", b""), anomaly());
    row(
        kind,
        "multiparts 1,000 deep",
        with("multipart/mixed; boundary=b0", deep.into_bytes()),
        Refused("552 5.3.4"),
    );
    row(kind, "1,000 parts", with("multipart/mixed; boundary=b", b"--b\r\n\r\n\r\n".repeat(1000)), anomaly());
    row(
        kind,
        "1,002 parts",
        with("multipart/mixed; boundary=b", b"--b\r\n\r\n\r\n".repeat(1002)),
        Refused("552 5.3.4"),
    );
    row(
        kind,
        "100,000 parts",
        with("multipart/mixed; boundary=b", b"--b\r\n\r\n\r\n".repeat(100_000)),
        Refused("552 5.3.4"),
    );
    row(kind, "NUL, CR and every other byte", with("text/plain", (0..=255).collect()), anomaly());
    row(kind, "a line of a megabyte", with("text/plain", vec![b'x'; 1_000_000]), anomaly());
    row(
        kind,
        "our own boundaries",
        with("text/plain", b"\r\n------=_PEC_mixed_00\r\n------=_PEC_signed_00--\r\n".to_vec()),
        anomaly(),
    );
    row(
        kind,
        "a zip bomb",
        with(
            "application/zip; name=a.zip",
            encodify::base64::MIME
                .encode(crate::zip_of(&[crate::Zip::packed("a", &vec![0; 20_000_000])]))
                .into_bytes(),
        ),
        anomaly(),
    );
    row(
        kind,
        "larger than a receipt could carry",
        with("text/plain", b"0123456789abcdef\r\n".repeat(1_200_000)),
        Refused("552 5.3.4"),
    );
    row(kind, "a virus", with("text/plain", crate::VIRUS.into()), Refused("554 5.7.1"));
    row(
        kind,
        "what the scanner gives up on",
        with("text/plain", crate::SCANNER_GIVES_UP.into()),
        Refused("552 5.3.4"),
    );

    let kind = "ordinary mail: SMTP";
    row(kind, "the null path", from(plain(), "<>"), Anomaly(NOT_SIGNED));
    row(
        kind,
        "a sender with a blank",
        from(ordinary(b"From: nessuno", b"x"), "<\"x y\"@posta.test>"),
        Anomaly("x y'@posta.test"),
    );
    row(
        kind,
        "a sender at an address literal",
        from(ordinary(b"From: nessuno", b"x"), "<x@[192.0.2.1]>"),
        Anomaly("x@[192.0.2.1]"),
    );
    for sender in [
        "<anna@pec.beta.test>",
        "<ANNA@PEC.Beta.Test>",
        "<anna@pec.beta.test.>",
        "<\"anna b\"@pec.beta.test>",
        "<@relay.test:anna@pec.beta.test>",
        "<x@gestore.beta.test>",
    ] {
        row(
            kind,
            &format!("an address of ours as the sender: {sender}"),
            from(plain(), sender),
            Refused("550 5.7.1"),
        );
    }
    for sender in ["<x@posta.test>", "<\"x y\"@posta.test>", "<x@[192.0.2.1]>"] {
        row(
            kind,
            &format!("{sender} writes to the service mailbox"),
            to(from(plain(), sender), &["<ricevute@gestore.beta.test>"]),
            Refused("550 5.7.1"),
        );
    }
    row(
        kind,
        "a report for the service mailbox",
        to(from(plain(), "<>"), &["<ricevute@gestore.beta.test>"]),
        Anomaly(NOT_SIGNED),
    );
    row(kind, "somebody else's recipient", to(plain(), &["<carla@posta.test>"]), Refused("550 5.7.1"));
    row(
        kind,
        "somebody else's recipient beside ours",
        to(plain(), &["<bruno@pec.beta.test>", "<carla@posta.test>"]),
        Refused("550 5.7.1"),
    );
    for recipient in [
        "<bruno>",
        "<é@pec.beta.test>",
        "<@pec.beta.test:x@posta.test>",
        "<bruno@pec.beta.test.>",
        "<\"b b\"@pec.beta.test>",
        "<x@[192.0.2.1]>",
    ] {
        row(kind, &format!("RCPT TO {recipient}"), to(plain(), &[recipient]), Refused("553 5.1.3"));
    }
    for recipient in ["<accettazione+00@notices.pec.internal>", "<presa-in-carico+00@NOTICES.pec.internal>"] {
        row(kind, &format!("RCPT TO {recipient}"), to(plain(), &[recipient]), Refused("550 5.1.1"));
    }
    row(
        kind,
        "a hundred recipients, the same ten times",
        to(plain(), &["<bruno@pec.beta.test>"; 10]),
        Anomaly(NOT_SIGNED),
    );
    row(kind, "60 hops", ordinary("Received: x\n".repeat(60).as_bytes(), b"x"), Refused("554 5.6.0"));
    row(kind, "1,500 fields", ordinary("X: y\n".repeat(1500).as_bytes(), b"x"), Refused("554 5.6.0"));
    row(
        kind,
        "a field that Postfix cuts",
        ordinary(format!("X: {}", "x".repeat(60_000)).as_bytes(), b"x"),
        Refused("554 5.6.0"),
    );
}

/// What says that it is certified mail and is not signed by a provider.
fn forged(row: Row<'_>, hands: &Hands) {
    let kind = "forged";
    let envelope = || Forgery::envelope("forged");
    let unsigned = |mut mail: Mail| {
        for field in mail.header.fields_mut().iter_mut().filter(|f| f.is("Content-Type")) {
            field.value = b" multipart/mixed; boundary=\"s\"".to_vec();
        }
        mail
    };
    row(
        kind,
        "an envelope without a signature",
        unsigned(envelope().signed(&hands.alfa)),
        Anomaly(NOT_SIGNED),
    );
    for tipo in [
        "accettazione",
        "presa-in-carico",
        "avvenuta-consegna",
        "errore-consegna",
        "preavviso-errore-consegna",
        "rilevazione-virus",
        "non-accettazione",
    ] {
        let receipt = || Forgery::receipt(tipo, SENT, "<consegna>anna@pec.alfa.test</consegna>");
        row(
            kind,
            &format!("{tipo} without a signature"),
            unsigned(receipt().signed(&hands.alfa)),
            Anomaly(NOT_SIGNED),
        );
        row(
            kind,
            &format!("{tipo} of a CA that nobody knows"),
            receipt().signed(&hands.unknown_ca),
            Anomaly(NOT_SIGNED),
        );
        row(
            kind,
            &format!("{tipo} of a certificate that is no provider's"),
            receipt().signed(&hands.not_listed),
            Anomaly("non appartiene a un gestore"),
        );
    }
    row(
        kind,
        "an envelope of a CA that nobody knows",
        envelope().signed(&hands.unknown_ca),
        Anomaly(NOT_SIGNED),
    );
    row(
        kind,
        "an envelope of a certificate that is no provider's",
        envelope().signed(&hands.not_listed),
        Anomaly("non appartiene a un gestore"),
    );
    row(
        kind,
        "our anomaly envelope, by somebody else",
        envelope().field("X-Trasporto", "errore").signed(&hands.alfa),
        Anomaly("né una busta di trasporto né una ricevuta"),
    );
    row(
        kind,
        "an anomaly envelope without daticert.xml, by another provider",
        envelope().with(|f| f.daticert_header.clear()).field("X-Trasporto", "errore").signed(&hands.alfa),
        Anomaly("né una busta di trasporto né una ricevuta"),
    );
    let stolen = signature(&hands.alfa, &Forgery::envelope("another").content());
    row(
        kind,
        "the signature of another message",
        envelope().with(|f| f.signature = Some(stolen)).signed(&hands.alfa),
        Anomaly("does not verify"),
    );
    for (name, old, new) in [
        ("a letter of the text", "Messaggio di posta", "Messaggio dì posta"),
        ("a blank at a line's end", "Ciao\r\n", "Ciao \r\n"),
        ("a line more", "Ciao\r\n", "Ciao\r\n\r\n"),
        ("a header field of a part", "Content-Type: text/plain", "Content-Type: text/PLAIN"),
        (
            "the media type of what is signed",
            "Content-Type: multipart/mixed;",
            "Content-type: multipart/mixed;",
        ),
        ("the identifier in postacert.eml", "Message-ID: <pec", "Message-ID: <pecc"),
        ("a part more", "\r\n--m--", "\r\n--m\r\n\r\nx\r\n--m--"),
    ] {
        let mut mail = Forgery::envelope(name).signed(&hands.alfa);
        let body = String::from_utf8(mail.body).unwrap();
        assert!(body.contains(old), "{old}");
        mail.body = body.replacen(old, new, 1).into_bytes();
        row(kind, &format!("changed on its way: {name}"), mail, Anomaly("does not verify"));
    }
    let mut inside = envelope().signed(&hands.alfa);
    inside.header = pec_core::header::Header::default();
    let whole = Forgery::envelope("inside").signed(&hands.alfa).to_bytes();
    inside.header.push(Field::written("Content-Type", "message/rfc822"));
    inside.header.push(Field::written("X-Trasporto", "posta-certificata"));
    inside.body = whole;
    row(kind, "an envelope inside a message that says to be one", inside, Anomaly(NOT_SIGNED));
}

/// Header and SMTP envelope at odds with what is signed.
fn headers(row: Row<'_>, hands: &Hands) {
    let kind = "envelope: header";
    let e = Forgery::envelope;
    let mut case = |name: &str, change: &dyn Fn(Forgery) -> Forgery, expect: Incoming| {
        row(kind, name, change(e(name)).signed(&hands.alfa), expect)
    };
    case("nothing odd", &|f| f, Taken);
    let from = "indirizzo del certificato";
    case(
        "From is another provider",
        &|f| f.field("From", "posta-certificata@gestore.beta.test"),
        Anomaly(from),
    );
    case("From is the sender", &|f| f.field("From", ANNA), Anomaly(from));
    case("no From", &|f| f.with(|f| f.header.fields_mut().retain(|f| !f.is("From"))), Anomaly(from));
    case("From is two addresses", &|f| f.field("From", &format!("{ALFA_SIGNS}, {ANNA}")), Anomaly(from));
    case(
        "From is the right address as a name alone",
        &|f| f.field("From", &format!("\"{ALFA_SIGNS}\" <x@posta.test>")),
        Anomaly(from),
    );
    case(
        "From is the right address and text behind it",
        &|f| f.field("From", &format!("{ALFA_SIGNS} <x@posta.test")),
        Anomaly(from),
    );
    let on_behalf = |words: &str| format!("\"{words}\" <{ALFA_SIGNS}>");
    case(
        "From in capitals",
        &|f| f.field("From", &on_behalf(&format!("Per conto di: {ANNA}")).to_uppercase()),
        Taken,
    );
    case(
        "From in the RFC's own words",
        &|f| f.field("From", &on_behalf(&format!("On behalf of: {ANNA}"))),
        Taken,
    );
    case(
        "From folded",
        &|f| f.field("From", &on_behalf(&format!("Per conto di: {ANNA}")).replace("\" <", "\"\r\n <")),
        Taken,
    );
    let not_named = || Anomaly("non indica il mittente in daticert.xml");
    case(
        "From is of somebody else",
        &|f| f.field("From", &on_behalf("Per conto di: presidente@pec.alfa.test")),
        not_named(),
    );
    case(
        "From is of two",
        &|f| f.field("From", &on_behalf(&format!("Per conto di: presidente@pec.alfa.test: {ANNA}"))),
        not_named(),
    );
    case(
        "From has a title before it",
        &|f| f.field("From", &on_behalf(&format!("Il Presidente per conto di: {ANNA}"))),
        not_named(),
    );
    case("From is of nobody", &|f| f.field("From", ALFA_SIGNS), not_named());
    case(
        "another Message-ID",
        &|f| f.field("Message-ID", "<altro@gestore.alfa.test>"),
        Anomaly("non è l'identificativo in daticert.xml"),
    );
    case(
        "no Message-ID",
        &|f| f.with(|f| f.header.fields_mut().retain(|f| !f.is("Message-ID"))),
        Anomaly("non è l'identificativo in daticert.xml"),
    );
    case(
        "Message-ID without brackets",
        &|f| {
            f.with(|f| {
                f.header
                    .fields_mut()
                    .iter_mut()
                    .for_each(|f| f.value.retain(|b| !b"<>".contains(b) || !f.name.starts_with("Message")))
            })
        },
        Taken,
    );
    case(
        "a reference to another message",
        &|f| f.field("X-Riferimento-Message-ID", "<2@client.test>"),
        Anomaly("X-Riferimento-Message-ID indica"),
    );
    case("a folded reference", &|f| f.field("X-Riferimento-Message-ID", "\r\n <1@client.test>"), Taken);
    case(
        "no reference",
        &|f| f.with(|f| f.header.fields_mut().retain(|f| !f.is("X-Riferimento-Message-ID"))),
        Taken,
    );
    for name in
        ["From", "To", "Subject", "Message-ID", "Content-Type", "X-Trasporto", "X-Riferimento-Message-ID"]
    {
        let value = if name == "From" { ALFA_SIGNS } else { "multipart/signed; boundary=\"s\"" };
        case(
            &format!("{name} twice"),
            &|f| f.field(name, value).also(name, value),
            Anomaly("presente più volte"),
        );
    }
    case("it is a receipt as well", &|f| f.also("X-Ricevuta", "avvenuta-consegna"), Anomaly("X-Ricevuta"));
    case(
        "a kind that nobody knows",
        &|f| f.field("X-Trasporto", "banana"),
        Anomaly("né una busta di trasporto né una ricevuta"),
    );
    case(
        "no kind at all",
        &|f| f.with(|f| f.header.fields_mut().retain(|f| !f.is("X-Trasporto"))),
        Anomaly("né una busta di trasporto né una ricevuta"),
    );
    case("the kind in capitals", &|f| f.field("x-TRASPORTO", "POSTA-CERTIFICATA"), Taken);
    case(
        "a receipt by its header",
        &|f| {
            f.with(|f| f.header.fields_mut().retain(|f| !f.is("X-Trasporto")))
                .also("X-Ricevuta", "avvenuta-consegna")
        },
        Anomaly("daticert.xml says"),
    );
    case(
        "a receipt that is an envelope by its header",
        &|f| {
            f.with(|f| f.header.fields_mut().retain(|f| !f.is("X-Trasporto")))
                .also("X-Ricevuta", "posta-certificata")
        },
        Anomaly("né una busta di trasporto né una ricevuta"),
    );
    case(
        "fields that sound like ours",
        &|f| f.also("X-Pec-Custody", "00").also("X-Pec-Notice", "avvenuta-consegna"),
        Taken,
    );
    case(
        "a multipart in base64",
        &|f| f.also("Content-Transfer-Encoding", "base64"),
        Anomaly("Content-Transfer-Encoding"),
    );
    case(
        "a subject of rubbish",
        &|f| f.field("Subject", "=?utf-8?q?=0D=0A=00?= \u{1b}"),
        Anomaly("non inizia come quello di un messaggio posta-certificata"),
    );
    case(
        "a subject in words",
        &|f| f.field("Subject", "=?utf-8?q?POSTA_CERTIFICATA:?= =?utf-8?q?_x?="),
        Taken,
    );
    case("a subject without the blank", &|f| f.field("Subject", "POSTA  CERTIFICATA:Prova"), Taken);
    case(
        "another subject",
        &|f| f.field("Subject", "CONSEGNA: Prova"),
        Anomaly("non inizia come quello di un messaggio posta-certificata"),
    );
    case(
        "no subject",
        &|f| f.with(|f| f.header.fields_mut().retain(|f| !f.is("Subject"))),
        Anomaly("non inizia"),
    );
    for (name, media) in ODD_MEDIA {
        let media = media.replace("TYPE", "multipart/signed; protocol=\"application/x-pkcs7-signature\"");
        case(name, &|f| f.field("Content-Type", &media), Anomaly("Firma non presente o non autentica"));
    }
    for (name, version) in [("no MIME-Version", None), ("another MIME-Version", Some("2.0"))] {
        case(
            name,
            &|f| match version {
                Some(version) => f.field("MIME-Version", version),
                None => f.with(|f| f.header.fields_mut().retain(|f| !f.is("MIME-Version"))),
            },
            Anomaly("Firma non presente o non autentica"),
        );
    }
    case("900 fields more", &|f| (0..900).fold(f, |f, _| f.also("X", "y")), Taken);
    case("the wish for a kind of receipt that nobody knows", &|f| f.field("X-TipoRicevuta", "banana"), Taken);
    case("the null path", &|f| f.with(|f| f.sender = "<>".into()), Anomaly("è stato inviato da"));
    case(
        "another reverse path",
        &|f| f.with(|f| f.sender = "<altra@pec.alfa.test>".into()),
        Anomaly("è stato inviato da altra@pec.alfa.test"),
    );
    case(
        "a reverse path with a route",
        &|f| f.with(|f| f.sender = format!("<@x.test:{ANNA}>")),
        Anomaly("è stato inviato da"),
    );
    case(
        "the reverse path in capitals",
        &|f| f.with(|f| f.sender = format!("<{}>", ANNA.to_uppercase())),
        Taken,
    );
    case(
        "a recipient whom daticert.xml does not name",
        &|f| f.with(|f| f.recipients = vec!["<dario@pec.beta.test>".into()]),
        Anomaly("non è stato inviato a dario"),
    );
    case(
        "one named, one not",
        &|f| f.with(|f| f.recipients.push("<dario@pec.beta.test>".into())),
        Anomaly("non è stato inviato a dario"),
    );
    case(
        "a recipient twice, in two writings",
        &|f| f.with(|f| f.recipients.push("<BRUNO@pec.beta.test>".into())),
        Taken,
    );
    case(
        "a recipient of somebody else",
        &|f| f.with(|f| f.recipients = vec!["<carla@posta.test>".into()]),
        Refused("550 5.7.1"),
    );
    case("60 hops", &|f| (0..60).fold(f, |f, _| f.also("Received", "x")), Refused("554 5.6.0"));
}

/// daticert.xml, signed by a provider.
#[allow(clippy::too_many_lines)]
fn xml(row: Row<'_>, hands: &Hands) {
    let kind = "envelope: daticert.xml";
    let not_read = || Anomaly("formato non conforme alle regole tecniche");
    let mut case = |name: &str, change: &dyn Fn(Forgery) -> Forgery, expect: Incoming| {
        row(kind, name, change(Forgery::envelope(name)).signed(&hands.alfa), expect);
    };
    let decl = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>";
    // Entities and document types.
    let laughs: String =
        (1..10).map(|i| format!("<!ENTITY l{i} \"{}\">", format!("&l{};", i - 1).repeat(10))).collect();
    case(
        "a billion laughs",
        &|f| {
            f.xml(decl, &format!("{decl}<!DOCTYPE postacert [<!ENTITY l0 \"ha\">{laughs}]>"))
                .xml(">Prova<", ">&l9;<")
        },
        not_read(),
    );
    case(
        "an entity of a file",
        &|f| {
            f.xml(decl, &format!("{decl}<!DOCTYPE postacert [<!ENTITY x SYSTEM \"file:///etc/passwd\">]>"))
                .xml(">Prova<", ">&x;<")
        },
        not_read(),
    );
    case(
        "an entity of the network",
        &|f| {
            f.xml(
                decl,
                &format!("{decl}<!DOCTYPE postacert [<!ENTITY % x SYSTEM \"http://192.0.2.1/x\">%x;]>"),
            )
        },
        not_read(),
    );
    case(
        "the DTD itself",
        &|f| f.xml(decl, &format!("{decl}<!DOCTYPE postacert SYSTEM \"daticert.dtd\">")),
        not_read(),
    );
    case("an entity that nobody declared", &|f| f.xml(">Prova<", ">&eacute;<"), not_read());
    case("an ampersand alone", &|f| f.xml(">Prova<", ">A & B<"), not_read());
    case("the five entities", &|f| f.xml(">Prova<", ">&lt;&gt;&amp;&apos;&quot;<"), Taken);
    case("letters by their numbers", &|f| f.xml(">Prova<", ">&#232;&#xE8;&#x1F4A9;<"), Taken);
    case("a number that is no letter", &|f| f.xml(">Prova<", ">&#xD800;<"), not_read());
    case("the number of NUL", &|f| f.xml(">Prova<", ">&#0;<"), not_read());
    case("a number without end", &|f| f.xml(">Prova<", &format!(">&#{};<", "9".repeat(5000))), not_read());
    case("a comment", &|f| f.xml(decl, &format!("{decl}<!-- x -->")), Taken);
    case("a comment with two hyphens", &|f| f.xml(decl, &format!("{decl}<!-- a -- b -->")), not_read());
    case("a comment that never ends", &|f| f.xml(decl, &format!("{decl}<!-- x")), not_read());
    case("a section of characters", &|f| f.xml(">Prova<", "><![CDATA[<mittente>x</mittente>]]><"), Taken);
    case("a processing instruction", &|f| f.xml(decl, &format!("{decl}<?php x ?>")), Taken);
    // Sizes.
    case("1.2 MB", &|f| f.xml(decl, &format!("{decl}<!--{}-->", "x".repeat(1_200_000))), not_read());
    case(
        "an attribute of a megabyte",
        &|f| f.xml("<postacert ", &format!("<postacert x=\"{}\" ", "y".repeat(1_000_000))),
        not_read(),
    );
    case(
        "an attribute of 5 MB",
        &|f| f.xml("<postacert ", &format!("<postacert x=\"{}\" ", "y".repeat(5_000_000))),
        not_read(),
    );
    case(
        "300,000 attributes",
        &|f| f.xml("<postacert ", &format!("<postacert {}", numbered("a", "=\"\" ", 300_000).concat())),
        not_read(),
    );
    case(
        "elements 100,000 deep",
        &|f| f.xml("<intestazione>", &"<intestazione>".repeat(100_000)),
        not_read(),
    );
    case("an element without a name", &|f| f.xml("<intestazione>", "<>"), not_read());
    case(
        "a name of a megabyte",
        &|f| f.xml("<intestazione>", &format!("<{}>", "a".repeat(1_000_000))),
        not_read(),
    );
    let crowd = |size: usize| numbered("<destinatari>u", "@pec.beta.test</destinatari>", size).concat();
    case("10,000 recipients", &|f| f.xml("<risposte>", &format!("{}<risposte>", crowd(10_000))), Taken);
    let all = numbered("<u", "@pec.beta.test>", 300);
    let of_all = |f: Forgery| f.with(|f| f.recipients = all.clone());
    case(
        "2,000 recipients, 300 of them here",
        &|f| of_all(f.xml("<risposte>", &format!("{}<risposte>", crowd(2000)))),
        Taken,
    );
    // Within the bound, as they are written here; in our own writing, from which every notice is made, they
    // are not.
    case("20,000 recipients", &|f| f.xml("<risposte>", &format!("{}<risposte>", crowd(20_000))), not_read());
    case(
        "a subject of what has to be escaped",
        &|f| f.xml(">Prova<", &format!("><![CDATA[{}]]><", "&".repeat(300_000))),
        not_read(),
    );
    case("a subject of a megabyte", &|f| f.xml(">Prova<", &format!(">{}<", "è".repeat(500_000))), Taken);
    case(
        "a subject of control characters",
        &|f| f.xml(">Prova<", ">&#x1;&#x1B;[2J&#x85;&#13;&#10;.&#xFFFE;<"),
        Taken,
    );
    // Writing.
    case("a byte order mark", &|f| f.xml(decl, &format!("\u{feff}{decl}")), Taken);
    case(
        "UTF-16",
        &|f| {
            f.with(|f| {
                f.daticert = String::from_utf8(f.daticert.clone())
                    .unwrap()
                    .encode_utf16()
                    .flat_map(u16::to_be_bytes)
                    .collect()
            })
        },
        not_read(),
    );
    case(
        "Latin-1 bytes",
        &|f| {
            f.with(|f| {
                let at = f.daticert.windows(5).position(|w| w == b"Prova").unwrap();
                f.daticert[at] = 0xe0;
            })
        },
        not_read(),
    );
    case(
        "NUL",
        &|f| {
            f.with(|f| {
                let at = f.daticert.windows(5).position(|w| w == b"Prova").unwrap();
                f.daticert[at] = 0;
            })
        },
        not_read(),
    );
    case("empty", &|f| f.with(|f| f.daticert.clear()), not_read());
    case("a declaration and nothing else", &|f| f.with(|f| f.daticert = decl.into()), not_read());
    case("not XML", &|f| f.with(|f| f.daticert = b"{\"tipo\": \"posta-certificata\"}".to_vec()), not_read());
    case("another document", &|f| f.with(|f| f.daticert = b"<html/>".to_vec()), not_read());
    case("cut in the middle", &|f| f.with(|f| f.daticert.truncate(f.daticert.len() / 2)), not_read());
    case("a second root", &|f| f.with(|f| f.daticert.extend_from_slice(b"<postacert/>")), not_read());
    case("text behind the root", &|f| f.with(|f| f.daticert.extend_from_slice(b"x")), not_read());
    case("text between elements", &|f| f.xml("<dati>", "<dati>x"), not_read());
    case("elements in capitals", &|f| f.xml("<dati>", "<DATI>").xml("</dati>", "</DATI>"), not_read());
    case(
        "elements of a name space",
        &|f| f.xml("<dati>", "<p:dati>").xml("</dati>", "</p:dati>"),
        not_read(),
    );
    case("an element that never closes", &|f| f.xml("</oggetto>", ""), not_read());
    case(
        "elements that cross",
        &|f| f.xml("</oggetto>\n    </intestazione>", "</intestazione></oggetto>"),
        not_read(),
    );
    // The content model.
    for element in ["mittente", "risposte", "gestore-emittente", "giorno", "ora", "identificativo"] {
        let (open, close) = (format!("<{element}>"), format!("</{element}>"));
        let away = |f: Forgery, twice: bool| {
            f.with(|f| {
                let xml = String::from_utf8(f.daticert.clone()).unwrap();
                let (start, end) = (xml.find(&open).unwrap(), xml.find(&close).unwrap() + close.len());
                f.daticert = [&xml[..start], &xml[start..end].repeat(if twice { 2 } else { 0 }), &xml[end..]]
                    .concat()
                    .into_bytes();
            })
        };
        case(&format!("no {element}"), &|f| away(f, false), not_read());
        case(&format!("{element} twice"), &|f| away(f, true), not_read());
        case(
            &format!("{element} with something in it"),
            &|f| f.xml(&open, &format!("{open}<b/>")),
            not_read(),
        );
    }
    case(
        "no recipient",
        &|f| f.xml(&format!("<destinatari tipo=\"certificato\">{BRUNO}</destinatari>"), ""),
        not_read(),
    );
    case("no data", &|f| f.xml("<data zona", "<datum zona").xml("</data>", "</datum>"), not_read());
    case("an element that is not in the DTD", &|f| f.xml("<dati>", "<dati><extra/>"), not_read());
    case("dati before intestazione", &|f| f.xml("<intestazione>", "<dati></dati><intestazione>"), not_read());
    case("a type that nobody knows", &|f| f.xml("posta-certificata", "raccomandata"), not_read());
    case("no type", &|f| f.xml("tipo=\"posta-certificata\" ", ""), not_read());
    case(
        "two types",
        &|f| f.xml("tipo=\"posta-certificata\"", "tipo=\"posta-certificata\" tipo=\"avvenuta-consegna\""),
        not_read(),
    );
    case("an attribute without a value", &|f| f.xml("<postacert ", "<postacert x "), not_read());
    case("an attribute without quotes", &|f| f.xml("<postacert ", "<postacert x=y "), not_read());
    case("an error that nobody knows", &|f| f.xml("nessuno", "qualcuno"), not_read());
    case("a recipient of a kind that nobody knows", &|f| f.xml("certificato", "segreto"), not_read());
    case("a receipt that nobody knows", &|f| f.xml("\"completa\"", "\"banana\""), not_read());
    case(
        "another type than the header's",
        &|f| f.xml("posta-certificata", "accettazione"),
        Anomaly("daticert.xml says"),
    );
    // Values.
    for (what, old, new) in [
        ("the 31st of February", "<giorno>", "<giorno>31/02/2026</giorno><x>"),
        ("a day without end", "<giorno>", "<giorno>99999999999999999999/1/1</giorno><x>"),
        ("a year of five digits", "<giorno>", "<giorno>01/01/10000</giorno><x>"),
        ("a negative year", "<giorno>", "<giorno>01/01/-0001</giorno><x>"),
        ("an hour that is none", "<ora>", "<ora>25:61:61</ora><x>"),
        ("no hour", "<ora>", "<ora></ora><x>"),
    ] {
        let element = if old == "<ora>" { "ora" } else { "giorno" };
        case(
            what,
            &|f| {
                f.with(|f| {
                    let xml = String::from_utf8(f.daticert.clone()).unwrap();
                    let (start, end) = (
                        xml.find(old).unwrap(),
                        xml.find(&format!("</{element}>")).unwrap() + element.len() + 3,
                    );
                    f.daticert = format!("{}{}{}", &xml[..start], new.trim_end_matches("<x>"), &xml[end..])
                        .into_bytes();
                })
            },
            not_read(),
        );
    }
    for (what, zone) in [
        ("a zone of 99 hours", "+9999"),
        ("a zone that is none", "CET"),
        ("no zone", ""),
        ("a zone of letters beyond ASCII", "+01\u{e8}"),
    ] {
        case(what, &|f| f.xml("zona=\"+0100\"", &format!("zona=\"{zone}\"")), not_read());
    }
    case(
        "the end of time",
        &|f| f.xml("<giorno>18/11/2026", "<giorno>31/12/9999").xml("zona=\"+0100\"", "zona=\"-2359\""),
        not_read(),
    );
    case("the last day that has a name", &|f| f.xml("<giorno>18/11/2026", "<giorno>30/12/9999"), Taken);
    let sender = |value: &'static str| {
        move |f: Forgery| f.xml(&format!("<mittente>{ANNA}"), &format!("<mittente>{value}"))
    };
    case("a sender who is none", &sender("Anna"), Anomaly("non è un indirizzo di posta"));
    case("no sender", &sender(""), Anomaly("non è un indirizzo di posta"));
    case(
        "two senders",
        &sender("anna@pec.alfa.test, anna@pec.alfa.test"),
        Anomaly("non è un indirizzo di posta"),
    );
    case(
        "a sender with a line break",
        &sender("anna@pec.alfa.test&#13;&#10;X: y"),
        Anomaly("non è un indirizzo di posta"),
    );
    case(
        "another sender",
        &sender("altra@pec.alfa.test"),
        Anomaly("daticert.xml indica altra@pec.alfa.test"),
    );
    case(
        "a sender whom another provider serves",
        &|f| {
            f.xml(ANNA, "x@pec.beta.test")
                .with(|f| f.sender = "<x@pec.beta.test>".into())
                .field("From", &format!("\"Per conto di: x@pec.beta.test\" <{ALFA_SIGNS}>"))
        },
        Anomaly("non è gestito da Alfa"),
    );
    case(
        "a sender whom nobody serves",
        &|f| {
            f.xml(ANNA, "x@posta.test")
                .with(|f| f.sender = "<x@posta.test>".into())
                .field("From", &format!("\"Per conto di: x@posta.test\" <{ALFA_SIGNS}>"))
        },
        Anomaly("dominio mittente non di posta certificata"),
    );
    case(
        "an identifier of nothing",
        &|f| f.with(|f| f.daticert = crate::forge::daticert("").into_bytes()),
        not_read(),
    );
    case(
        "an identifier with blanks",
        &|f| f.with(|f| f.daticert = crate::forge::daticert("a b@gestore.alfa.test").into_bytes()),
        not_read(),
    );
    case(
        "an identifier with brackets",
        &|f| f.with(|f| f.daticert = crate::forge::daticert("&lt;1@gestore.alfa.test&gt;").into_bytes()),
        not_read(),
    );
    case(
        "an identifier without an at sign",
        &|f| f.with(|f| f.daticert = crate::forge::daticert("pec.1").into_bytes()),
        not_read(),
    );
    let called = |id: &'static str| {
        move |f: Forgery| {
            f.field("Message-ID", &format!("<{id}>"))
                .with(|f| f.daticert = crate::forge::daticert(id).into_bytes())
        }
    };
    case("an identifier that climbs", &called("../../../../etc/passwd@gestore.alfa.test"), Taken);
    case("an identifier of SQL", &called("';DROP/**/TABLE/**/log;--@gestore.alfa.test"), Taken);
    case(
        "an identifier of 20,000 letters",
        &|f| {
            f.with(|f| {
                f.daticert = crate::forge::daticert(&format!("{}@x.test", noise(20_000, ""))).into_bytes()
            })
        },
        not_read(),
    );
    let long = format!("{}@x.test", noise(20_000, ""));
    let long = || long.clone();
    case(
        "a Message-ID of 20,000 letters",
        &|f| f.xml("1@client.test", &long()).field("X-Riferimento-Message-ID", &format!("<{}>", long())),
        Taken,
    );
    case(
        "a Message-ID of words",
        &|f| {
            f.xml("&lt;1@client.test&gt;", "la mia lettera")
                .field("X-Riferimento-Message-ID", "la mia lettera")
        },
        Taken,
    );
}

/// What is in the signed content, and how.
fn contents(row: Row<'_>, hands: &Hands) {
    let kind = "envelope: contents";
    let not_read = || Anomaly("formato non conforme alle regole tecniche");
    let mut case = |name: &str, change: &dyn Fn(&mut Forgery), expect: Incoming| {
        row(kind, name, Forgery::envelope(name).with(|f| change(f)).signed(&hands.alfa), expect)
    };
    case("no daticert.xml", &|f| f.daticert_header.clear(), not_read());
    case(
        "two daticert.xml",
        &|f| f.more.push(format!("{}\r\nPHg+", f.daticert_header).into_bytes()),
        not_read(),
    );
    case(
        "daticert.xml by another name",
        &|f| f.daticert_header = f.daticert_header.replace("daticert.xml", "certdata.xml"),
        not_read(),
    );
    case(
        "daticert.xml in capitals",
        &|f| f.daticert_header = f.daticert_header.replace("daticert.xml", "DATICERT.XML"),
        Taken,
    );
    case(
        "daticert.xml as text/xml",
        &|f| f.daticert_header = f.daticert_header.replace("application/xml", "text/xml"),
        Taken,
    );
    case(
        "daticert.xml that is no XML by its type",
        &|f| f.daticert_header = f.daticert_header.replace("application/xml", "text/plain"),
        not_read(),
    );
    case("daticert.xml in base64 of nothing", &|f| f.daticert_encoded = Some(b"!!!!".to_vec()), not_read());
    case(
        "daticert.xml in base64, cut",
        &|f| f.daticert_encoded = Some(encodify::base64::MIME.encode(&f.daticert).as_bytes()[..400].to_vec()),
        not_read(),
    );
    case(
        "daticert.xml as it is",
        &|f| {
            f.daticert_header = f.daticert_header.replace("base64", "8bit");
            f.daticert_encoded = Some(f.daticert.clone());
        },
        Taken,
    );
    case(
        "daticert.xml in base64 that says 7bit",
        &|f| f.daticert_header = f.daticert_header.replace("base64", "7bit"),
        not_read(),
    );
    case(
        "daticert.xml in an encoding that nobody knows",
        &|f| f.daticert_header = f.daticert_header.replace("base64", "x-segreta"),
        not_read(),
    );
    case(
        "the transfer encoding of daticert.xml twice",
        &|f| f.daticert_header += "Content-Transfer-Encoding: 7bit\r\n",
        not_read(),
    );
    case(
        "the media type of daticert.xml twice",
        &|f| f.daticert_header += "Content-Type: text/plain\r\n",
        not_read(),
    );
    case("no postacert.eml", &|f| f.postacert = None, not_read());
    case(
        "two postacert.eml",
        &|f| f.more.push(format!("{}\r\nSubject: altro\r\n\r\nAltro\r\n", f.postacert_header).into_bytes()),
        not_read(),
    );
    case("an empty postacert.eml", &|f| f.postacert = Some(Vec::new()), Taken);
    case(
        "a postacert.eml that is no message",
        &|f| f.postacert = Some(b"questo non e' un messaggio".to_vec()),
        Taken,
    );
    case(
        "a postacert.eml in base64",
        &|f| {
            f.postacert_header = f.postacert_header.replace("7bit", "base64");
            f.postacert = Some(b"U3ViamVjdDogeA0KDQp5DQo=".to_vec());
        },
        Taken,
    );
    case(
        "a postacert.eml in base64 that is none",
        &|f| {
            f.postacert_header = f.postacert_header.replace("7bit", "base64");
            f.postacert = Some(b"!\xff".to_vec());
        },
        not_read(),
    );
    case(
        "a postacert.eml of 8 bits and NUL",
        &|f| f.postacert = Some(b"Subject: \xe0\r\n\r\n\0\xff\r\n".to_vec()),
        Taken,
    );
    case(
        "a postacert.eml of 9,000 parts",
        &|f| {
            f.postacert = Some(
                [
                    b"Content-Type: multipart/mixed; boundary=b\r\n\r\n".to_vec(),
                    b"--b\r\n\r\n\r\n".repeat(9_000),
                ]
                .concat(),
            )
        },
        Taken,
    );
    let forwarded = String::from_utf8(Forgery::envelope("forwarded").signed(&hands.alfa).to_bytes())
        .unwrap()
        .replace("--s", "--t")
        .replace("--m", "--n")
        .replace("\"s\"", "\"t\"")
        .replace("\"m\"", "\"n\"");
    case(
        "a postacert.eml with an envelope in it",
        &|f| f.postacert = Some(forwarded.clone().into_bytes()),
        Taken,
    );
    case("40 parts", &|f| f.more = vec![b"\r\nx".to_vec(); 40], not_read());
    case("30 parts", &|f| f.more = vec![b"\r\nx".to_vec(); 25], Taken);
    case("a part whose header is none", &|f| f.more.push(b"nessun campo\r\n\r\nx".to_vec()), not_read());
    case(
        "a part whose header is 100,000 bytes",
        &|f| f.more.push([b"X-Y: z\r\n".repeat(13_000), b"\r\nx".to_vec()].concat()),
        Refused("552 5.3.4"),
    );
    case("not a multipart", &|f| f.mixed = "text/plain; boundary=\"m\"".into(), not_read());
    case("multipart/alternative", &|f| f.mixed = "multipart/alternative; boundary=\"m\"".into(), not_read());
    case("a multipart without a boundary", &|f| f.mixed = "multipart/mixed".into(), not_read());
    case(
        "a boundary that never comes",
        &|f| f.mixed = "multipart/mixed; boundary=\"x\"; boundary=\"m\"".into(),
        not_read(),
    );
    case(
        "the boundary of the whole inside",
        &|f| f.postacert = Some(b"Subject: x\r\n\r\n--s\r\n\r\ny\r\n--s--\r\n".to_vec()),
        Anomaly(NOT_SIGNED),
    );
}

/// What stands where the signature should.
#[allow(clippy::too_many_lines)]
fn signatures(row: Row<'_>, hands: &Hands) {
    let kind = "signature";
    let alfa = &hands.alfa;
    let mut case = |name: &str, change: &dyn Fn(&mut Forgery, &[u8]), expect: Incoming| {
        let mut forgery = Forgery::envelope(name);
        let good = signature(alfa, &forgery.content());
        change(&mut forgery, &good);
        row(kind, name, forgery.signed(alfa), expect);
    };
    let none = || Anomaly(NOT_SIGNED);
    case(
        "the other media type",
        &|f, _| f.signature_header = f.signature_header.replace("x-pkcs7", "pkcs7"),
        Taken,
    );
    case(
        "another media type",
        &|f, _| {
            f.signature_header =
                f.signature_header.replace("application/x-pkcs7-signature", "application/pgp-signature")
        },
        none(),
    );
    case(
        "no media type",
        &|f, _| f.signature_header = "Content-Transfer-Encoding: base64\r\n".into(),
        none(),
    );
    case("empty", &|f, _| f.signature = Some(Vec::new()), none());
    case("base64 that is none", &|f, _| f.signature_encoded = Some(b"!!!! \xff\0".to_vec()), none());
    case(
        "base64, cut",
        &|f, good| {
            f.signature_encoded = Some(encodify::base64::MIME.encode(good).as_bytes()[..1000].to_vec())
        },
        none(),
    );
    case(
        "quoted-printable of nothing",
        &|f, _| {
            f.signature_header = f.signature_header.replace("base64", "quoted-printable");
            f.signature_encoded = Some(b"=ZZ=".to_vec());
        },
        none(),
    );
    case(
        "DER as it is",
        &|f, good| {
            f.signature_header = f.signature_header.replace("base64", "binary");
            f.signature_encoded = Some(good.to_vec());
        },
        Taken,
    );
    case(
        "PEM",
        &|f, good| {
            f.signature = Some(
                format!(
                    "-----BEGIN PKCS7-----\n{}\n-----END PKCS7-----\n",
                    encodify::base64::MIME.encode(good)
                )
                .into_bytes(),
            )
        },
        none(),
    );
    case("all zeros", &|f, _| f.signature = Some(vec![0; 3000]), none());
    case("the last byte missing", &|f, good| f.signature = Some(good[..good.len() - 1].to_vec()), none());
    case(
        "one bit of the signature",
        &|f, good| {
            let mut bytes = good.to_vec();
            *bytes.last_mut().unwrap() ^= 1;
            f.signature = Some(bytes);
        },
        none(),
    );
    case(
        "a length of four gigabytes",
        &|f, _| {
            f.signature =
                Some(b"\x30\x84\xff\xff\xff\xff\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02".to_vec())
        },
        none(),
    );
    case(
        "a length of 127 bytes",
        &|f, _| f.signature = Some([b"\x30\xff".to_vec(), vec![0xff; 127]].concat()),
        none(),
    );
    case("sequences 200,000 deep", &|f, _| f.signature = Some(b"\x30\x80".repeat(200_000)), none());
    case(
        "constructed strings 100,000 deep",
        &|f, _| {
            f.signature = Some(
                [
                    b"\x30\x80\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01\xa0\x80".to_vec(),
                    b"\x24\x80".repeat(100_000),
                ]
                .concat(),
            )
        },
        none(),
    );
    case(
        "an identifier that never ends",
        &|f, _| f.signature = Some([b"\x30\x82\x10\x00\x06\x82\x0f\x00".to_vec(), vec![0xff; 5000]].concat()),
        none(),
    );
    case("700,000 bytes of rubbish", &|f, _| f.signature = Some(noise(700_000, "").into_bytes()), none());
    case("more than a megabyte", &|f, _| f.signature = Some(vec![0x30; 1_000_000]), none());
    case(
        "nobody has signed",
        &|f, good| {
            f.signature = Some(changed_cms(good, |data| data.signer_infos.0 = der::asn1::SetOfVec::new()))
        },
        none(),
    );
    case(
        "without the certificate",
        &|f, good| f.signature = Some(changed_cms(good, |data| data.certificates = None)),
        none(),
    );
    // RFC 5652 s. 11.1 would have it refused; OpenSSL does not mind, and nothing depends on it.
    case(
        "another type than data for what is not in it",
        &|f, good| {
            f.signature = Some(changed_cms(good, |data| {
                data.encap_content_info.econtent_type = "1.2.840.113549.1.7.3".parse().unwrap()
            }))
        },
        Taken,
    );
    case(
        "the signed attributes taken away",
        &|f, good| f.signature = Some(changed_cms(good, |data| edit_signer(data, |s| s.signed_attrs = None))),
        none(),
    );
    case(
        "another digest than the one that was signed",
        &|f, good| {
            f.signature = Some(changed_cms(good, |data| {
                edit_signer(data, |s| s.digest_alg.oid = "1.3.14.3.2.26".parse().unwrap())
            }))
        },
        none(),
    );
    case(
        "a digest that nobody knows",
        &|f, good| {
            f.signature = Some(changed_cms(good, |data| {
                edit_signer(data, |s| s.digest_alg.oid = "1.2.3.4".parse().unwrap())
            }))
        },
        none(),
    );
    case("rubbish behind it", &|f, good| f.signature = Some([good, &[0; 50_000]].concat()), none());
    case("a line's end behind it", &|f, good| f.signature = Some([good, b"\r\n"].concat()), Taken);
    case(
        "its certificate a thousand times",
        &|f, good| f.signature = Some(with_certificates(good, 400)),
        none(),
    );
    case("20,000 digest algorithms", &|f, good| f.signature = Some(with_digests(good, 20_000)), none());
    // OpenSSL calls itself once for each: the stack ends before the last.
    case("SHA-256 16,000 times", &|f, good| f.signature = Some(with_sha256(good, 16_000)), none());
    case("SHA-256 2,500 times", &|f, good| f.signature = Some(with_sha256(good, 2_500)), none());
    case("a signature that is an envelope of CMS", &|f, _| f.signature = Some(encrypted()), none());
    case(
        "a signature of certificates alone",
        &|f, good| {
            f.signature = Some(changed_cms(good, |data| {
                data.signer_infos.0 = der::asn1::SetOfVec::new();
                data.digest_algorithms = der::asn1::SetOfVec::new();
            }))
        },
        none(),
    );
    let kind = "multipart/signed";
    let mut shape = |name: &str, change: &dyn Fn(String) -> String, expect: Incoming| {
        let mut mail = Forgery::envelope(name).signed(alfa);
        mail.body = change(String::from_utf8(mail.body).unwrap()).into_bytes();
        row(kind, name, mail, expect);
    };
    shape("three parts", &|b| b.replace("\r\n--s--", "\r\n--s\r\n\r\nx\r\n--s--"), none());
    shape(
        "one part",
        &|b| {
            b.split("\r\n--s\r\nContent-Type: application/x-pkcs7").next().unwrap().to_owned()
                + "\r\n--s--\r\n"
        },
        none(),
    );
    shape("no part", &|_| "testo\r\n".to_owned(), none());
    shape("nothing", &|_| String::new(), none());
    shape("never closed", &|b| b.replace("\r\n--s--", ""), none());
    shape(
        "the signature comes first",
        &|b| {
            let at = b.find("\r\n--s\r\nContent-Type: application/x-pkcs7").unwrap();
            format!("--s\r\nContent-Type: application/x-pkcs7{}", &b[at + 40..]).replace("--s--", "")
                + &b[..at]
                + "\r\n--s--\r\n"
        },
        none(),
    );
    shape(
        "a megabyte before it and behind it",
        &|b| format!("{0}{b}{0}", "testo di nessuno\r\n".repeat(50_000)),
        Anomaly("più di 1024 byte precedono la prima parte o seguono l'ultima"),
    );
    shape(
        "a sentence before it and behind it",
        &|b| format!("testo di nessuno\r\n{b}testo di nessuno\r\n"),
        Taken,
    );
    shape("nothing before it and behind it", &|b| b.to_owned(), Taken);
    shape(
        "another part before it",
        &|b| format!("--EVIL\r\nContent-Type: text/plain\r\n\r\nfalso\r\n--EVIL--\r\n{b}"),
        Anomaly("sembra l'inizio di un'altra parte"),
    );
    shape(
        "a CR alone before it, for some the end of a line",
        &|b| format!("x\r--s\r\rfalso\r\n{b}"),
        Anomaly("sembra l'inizio"),
    );
    shape("a line behind it that begins so", &|b| format!("{b}-- \r\nfirma\r\n"), Anomaly("sembra l'inizio"));
    shape("a virus before it", &|b| format!("{}\r\n{b}", crate::VIRUS), Refused("554 5.7.1"));
    shape("a virus behind it", &|b| format!("{b}{}\r\n", crate::VIRUS), Refused("554 5.7.1"));
}

fn edit_signer(data: &mut SignedData, change: impl FnOnce(&mut cms::signed_data::SignerInfo)) {
    let mut signer = data.signer_infos.0.get(0).unwrap().clone();
    change(&mut signer);
    data.signer_infos.0 = der::asn1::SetOfVec::try_from(vec![signer]).unwrap();
}

fn with_certificates(good: &[u8], count: usize) -> Vec<u8> {
    use cms::cert::CertificateChoices;
    changed_cms(good, |data| {
        let mut certificates: Vec<CertificateChoices> = data.certificates.clone().unwrap().0.into_vec();
        let CertificateChoices::Certificate(first) = certificates[0].clone() else { panic!() };
        for i in 0..count {
            let mut copy = first.clone();
            copy.tbs_certificate.serial_number =
                x509_cert::serial_number::SerialNumber::from(u32::try_from(i).unwrap());
            certificates.push(CertificateChoices::Certificate(copy));
        }
        data.certificates.as_mut().unwrap().0 = der::asn1::SetOfVec::try_from(certificates).unwrap();
    })
}

fn with_digests(good: &[u8], count: u32) -> Vec<u8> {
    changed_cms(good, |data| {
        let algorithm = |i: u32| x509_cert::spki::AlgorithmIdentifierOwned {
            oid: format!("1.2.{i}").parse().unwrap(),
            parameters: None,
        };
        data.digest_algorithms =
            der::asn1::SetOfVec::try_from((0..count).map(algorithm).collect::<Vec<_>>()).unwrap();
    })
}

/// With digest algorithms that OpenSSL knows. A set has each once for the crate `der`, not for OpenSSL: the
/// parameters make them differ.
fn with_sha256(good: &[u8], count: u32) -> Vec<u8> {
    changed_cms(good, |data| {
        let algorithm = |i: u32| x509_cert::spki::AlgorithmIdentifierOwned {
            oid: "2.16.840.1.101.3.4.2.1".parse().unwrap(),
            parameters: Some(der::Any::new(der::Tag::OctetString, i.to_be_bytes()).unwrap()),
        };
        data.digest_algorithms =
            der::asn1::SetOfVec::try_from((0..count).map(algorithm).collect::<Vec<_>>()).unwrap();
    })
}

/// CMS that encrypts.
fn encrypted() -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let pki = Pki::new(directory.path());
    let mut recipients = Stack::new().unwrap();
    recipients.push(pki.issuing().0.clone()).unwrap();
    CmsContentInfo::encrypt(&recipients, b"x", openssl::symm::Cipher::aes_128_cbc(), CMSOptions::BINARY)
        .unwrap()
        .to_der()
        .unwrap()
}

/// Receipts about the envelope [`SENT`], which Beta's user sent to Anna at Alfa.
fn receipts(row: Row<'_>, hands: &Hands) {
    let kind = "receipts";
    let about = "<consegna>anna@pec.alfa.test</consegna>";
    let mut case =
        |name: &str, receipt: Forgery, expect: Incoming| row(kind, name, receipt.signed(&hands.alfa), expect);
    let r = Forgery::receipt;
    case("avvenuta-consegna", r("avvenuta-consegna", SENT, about), Receipt);
    case("presa-in-carico", r("presa-in-carico", SENT, "<ricezione>anna@pec.alfa.test</ricezione>"), Receipt);
    case(
        "errore-consegna",
        r(
            "errore-consegna",
            SENT,
            "<consegna>ANNA@PEC.alfa.test</consegna><errore-esteso>5.1.1</errore-esteso>",
        ),
        Receipt,
    );
    let no_msgid = || r("avvenuta-consegna", SENT, about).xml("<msgid>&lt;1@client.test&gt;</msgid>", "");
    case("avvenuta-consegna without msgid", no_msgid(), Receipt);
    case(
        "avvenuta-consegna without msgid, with a reference",
        no_msgid().also("X-Riferimento-Message-ID", "<1@client.test>"),
        Anomaly("X-Riferimento-Message-ID indica <1@client.test>, e daticert.xml indica -"),
    );
    case(
        "avvenuta-consegna with another subject",
        r("avvenuta-consegna", SENT, about).field("Subject", "POSTA CERTIFICATA: atto giudiziario"),
        Anomaly("non inizia come quello di un messaggio avvenuta-consegna"),
    );
    case(
        "avvenuta-consegna in the name of another address",
        r("avvenuta-consegna", SENT, about)
            .field("From", &format!("\"presidente@tribunale.test\" <{ALFA_SIGNS}>")),
        Anomaly("il campo From indica un altro indirizzo"),
    );
    case(
        "avvenuta-consegna with a name that is none",
        r("avvenuta-consegna", SENT, about)
            .xml(">Prova<", ">Con un nome<")
            .field("From", &format!("\"Posta certificata\" <{ALFA_SIGNS}>")),
        Receipt,
    );
    case(
        "avvenuta-consegna, another time",
        r("avvenuta-consegna", SENT, about).xml(">Prova<", ">Un'altra<"),
        Receipt,
    );
    let again = r("avvenuta-consegna", SENT, about)
        .also("X-Pec-Notice", "avvenuta-consegna")
        .also("X-Pec-Custody", "00");
    case("avvenuta-consegna again, with fields that sound like ours", again, Stranger);
    case(
        "about an envelope that nobody sent",
        r("avvenuta-consegna", "pec.1@gestore.beta.test", about),
        Stranger,
    );
    case("about nobody", r("avvenuta-consegna", SENT, ""), Stranger);
    case(
        "about somebody to whom it was not sent",
        r("avvenuta-consegna", SENT, "<consegna>altra@pec.alfa.test</consegna>"),
        Stranger,
    );
    case(
        "about a recipient of another provider",
        r("avvenuta-consegna", SENT, "<consegna>carla@posta.test</consegna>"),
        Stranger,
    );
    case(
        "about a recipient with a line break",
        r("avvenuta-consegna", SENT, "<consegna>anna@pec.alfa.test&#10;x</consegna>"),
        Stranger,
    );
    case(
        "about one of its recipients and one of somebody else",
        r(
            "presa-in-carico",
            SENT,
            "<ricezione>anna@pec.alfa.test</ricezione><ricezione>carla@posta.test</ricezione>",
        ),
        Receipt,
    );
    case(
        "20,000 recipients",
        r("presa-in-carico", SENT, &numbered("<ricezione>u", "@pec.alfa.test</ricezione>", 20_000).concat()),
        Stranger,
    );
    case(
        "the same recipient 20,000 times",
        r("presa-in-carico", SENT, &"<ricezione>anna@pec.alfa.test</ricezione>".repeat(20_000)),
        Receipt,
    );
    let anna = "<ricezione>anna@pec.alfa.test</ricezione>";
    case(
        "a virus for the same recipient 20,000 times",
        r("rilevazione-virus", SENT, &anna.repeat(20_000)),
        Receipt,
    );
    case(
        "its header says something else",
        r("avvenuta-consegna", SENT, about).field("X-Ricevuta", "errore-consegna"),
        Anomaly("daticert.xml says"),
    );
    case(
        "its header says what nobody knows",
        r("avvenuta-consegna", SENT, about).field("X-Ricevuta", "letto"),
        Anomaly("né una busta di trasporto né una ricevuta"),
    );
    case(
        "its header says two things",
        r("avvenuta-consegna", SENT, about).also("X-Ricevuta", "errore-consegna"),
        Anomaly("presente più volte"),
    );
    case(
        "its type twice",
        r("avvenuta-consegna", SENT, about)
            .xml("tipo=\"avvenuta-consegna\"", "tipo=\"avvenuta-consegna\" tipo=\"errore-consegna\""),
        Anomaly("formato non conforme"),
    );
    case("two who got it", r("avvenuta-consegna", SENT, &about.repeat(2)), Anomaly("formato non conforme"));
    case(
        "from another address",
        r("avvenuta-consegna", SENT, about).field("From", ANNA),
        Anomaly("indirizzo del certificato"),
    );
    case(
        "a Message-ID of 20,000 letters",
        r("presa-in-carico", SENT, "").field("Message-ID", &format!("<{}@x.test>", noise(20_000, "\r\n "))),
        Stranger,
    );
    case(
        "an error of a megabyte",
        r(
            "errore-consegna",
            SENT,
            &format!("<consegna>x@y.test</consegna><errore-esteso>{}</errore-esteso>", "x".repeat(1_000_000)),
        ),
        Stranger,
    );
    case(
        "of the null path",
        r("avvenuta-consegna", "pec.2@gestore.beta.test", about).with(|f| f.sender = "<>".into()),
        Stranger,
    );
    case(
        "with a virus, which came from our own user",
        r("avvenuta-consegna", "pec.3@gestore.beta.test", about)
            .with(|f| f.postacert = Some(crate::VIRUS.into())),
        Stranger,
    );
    case(
        "a virus at a provider that does not serve the recipient",
        r("rilevazione-virus", SENT, "<consegna>carla@posta.test</consegna>"),
        Stranger,
    );
    case(
        "an acceptance by another provider",
        r("accettazione", SENT, ""),
        Anomaly("non può emettere accettazione per conto di"),
    );
    case(
        "a non-acceptance by another provider",
        r("non-accettazione", SENT, "<errore-esteso>x</errore-esteso>"),
        Anomaly("non può emettere non-accettazione per conto di"),
    );
}

/// Letters that no compression makes shorter, `fold` after every 900.
fn noise(length: usize, fold: &str) -> String {
    let mut text = String::new();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for i in 0..length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.push(char::from(
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-"[(state % 64) as usize],
        ));
        if i % 900 == 899 {
            text += fold;
        }
    }
    text
}
