//! Signed messages in every wrong shape, with real keys: what a provider would write if it meant harm or did
//! not know better.

use std::sync::LazyLock;

use cms::content_info::ContentInfo;
use cms::signed_data::SignedData;
use der::asn1::Any;
use der::{Decode, Encode};
use openssl::asn1::{Asn1Object, Asn1OctetString, Asn1Time};
use openssl::bn::{BigNum, MsbOption};
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::sha::sha256;
use openssl::x509::extension::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName,
    SubjectKeyIdentifier,
};
use openssl::x509::{X509, X509Extension, X509NameBuilder};
use pec_core::clock::Moment;
use pec_core::header::{Field, Header};
use pec_core::identifier::hex;
use pec_core::smime::sign::{Identity, SignError, Signer, detached};
use pec_test_support::pki::{NOW, Pki, new_key};
use pec_test_support::postfix::Mail;
use x509_cert::Certificate;

/// The address with which Alfa signs.
pub const ALFA_SIGNS: &str = "posta-certificata@gestore.alfa.test";

/// Who sends.
pub const ANNA: &str = "anna@pec.alfa.test";

/// Who receives.
pub const BRUNO: &str = "bruno@pec.beta.test";

const YEAR: i64 = 365 * 86_400;

/// A key with a certificate that may be anything.
#[derive(Clone)]
pub struct Forger {
    key: PKey<Private>,
    identity: Identity,
    /// SHA-1 of the certificate, as a directory has it.
    pub sha1: String,
}

impl Signer for Forger {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn sign(&self, data: &[u8]) -> Result<Vec<u8>, SignError> {
        let signed = openssl::sign::Signer::new(MessageDigest::sha256(), &self.key)
            .and_then(|mut signer| signer.sign_oneshot_to_vec(data));
        signed.map_err(|e| SignError::Key(e.to_string()))
    }
}

/// What a certificate is like: the profile of RFC 6109 s. 5.5, less what a case breaks.
pub struct Profile {
    /// rfc822Name in the subjectAltName.
    pub san: Vec<String>,
    /// A dNSName there instead.
    pub san_dns: Option<String>,
    /// subjectAltName is critical.
    pub san_critical: bool,
    /// emailAddress in the subject.
    pub subject_email: Option<String>,
    /// keyUsage: `None` for none at all.
    pub key_usage: Option<KeyUsage>,
    /// extendedKeyUsage, by its name in OpenSSL.
    pub extended: Option<&'static str>,
    /// basicConstraints, and whether it says CA.
    pub basic_constraints: Option<bool>,
    /// subjectKeyIdentifier is there.
    pub subject_key_identifier: bool,
    /// authorityKeyIdentifier is there.
    pub authority_key_identifier: bool,
    /// An extension that nobody knows, critical or not.
    pub unknown: Option<bool>,
    /// Bits of the RSA key.
    pub bits: u32,
    /// The hash in the CA's signature.
    pub signed_with: MessageDigest,
    /// Validity.
    pub from: i64,
    /// Validity.
    pub to: i64,
    /// Who issued it.
    pub issuer: IssuedBy,
    /// The issuing CA's certificate is sent along.
    pub chain: bool,
    /// X.509 version 3; otherwise 1, which knows no extensions.
    pub version_3: bool,
}

/// Who issued a certificate.
pub enum IssuedBy {
    /// The CA that the test network believes.
    Ca,
    /// Nobody but itself.
    Itself,
    /// The holder of another certificate, with its key.
    Other(Box<Forger>),
    /// A CA of the same name with another key.
    FalseCa,
}

/// The key of all certificates, and that of a false CA.
static KEYS: LazyLock<[PKey<Private>; 2]> = LazyLock::new(|| [new_key(2048), new_key(2048)]);

fn digital_signature() -> KeyUsage {
    let mut usage = KeyUsage::new();
    usage.critical().digital_signature();
    usage
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            san: vec![ALFA_SIGNS.to_owned()],
            san_dns: None,
            san_critical: false,
            subject_email: None,
            key_usage: Some(digital_signature()),
            extended: None,
            basic_constraints: None,
            subject_key_identifier: true,
            authority_key_identifier: true,
            unknown: None,
            bits: 2048,
            signed_with: MessageDigest::sha256(),
            from: NOW - YEAR,
            to: NOW + YEAR,
            issuer: IssuedBy::Ca,
            chain: true,
            version_3: true,
        }
    }
}

/// A certificate of this profile and its key.
pub fn forger(pki: &Pki, profile: &Profile) -> Forger {
    let key = if profile.bits == 2048 { KEYS[0].clone() } else { new_key(profile.bits) };
    let (ca, ca_key) = pki.issuing();
    let other = match &profile.issuer {
        IssuedBy::Other(other) => {
            Some((X509::from_der(&other.identity.certificate.to_der().unwrap()).unwrap(), other.key.clone()))
        }
        _ => None,
    };
    let (issuer, issuer_key): (Option<&X509>, &PKey<Private>) = match &profile.issuer {
        IssuedBy::Ca => (Some(ca), ca_key),
        IssuedBy::Itself => (None, &key),
        IssuedBy::FalseCa => (Some(ca), &KEYS[1]),
        IssuedBy::Other(_) => other.as_ref().map(|(c, k)| (Some(c), k)).unwrap(),
    };

    let mut subject = X509NameBuilder::new().unwrap();
    subject.append_entry_by_text("C", "IT").unwrap();
    subject.append_entry_by_text("O", "Alfa PEC S.p.A.").unwrap();
    subject.append_entry_by_text("CN", "Posta Certificata").unwrap();
    if let Some(email) = &profile.subject_email {
        subject.append_entry_by_text("emailAddress", email).unwrap();
    }
    let subject = subject.build();
    let mut serial = BigNum::new().unwrap();
    serial.rand(120, MsbOption::ONE, false).unwrap();
    let mut builder = X509::builder().unwrap();
    builder.set_version(if profile.version_3 { 2 } else { 0 }).unwrap();
    builder.set_serial_number(&serial.to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(&subject).unwrap();
    builder.set_issuer_name(issuer.map_or(&*subject, |i| i.subject_name())).unwrap();
    builder.set_not_before(&Asn1Time::from_unix(profile.from).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::from_unix(profile.to).unwrap()).unwrap();
    builder.set_pubkey(&key).unwrap();
    if profile.version_3 {
        for extension in extensions(profile, &builder, issuer.map(|i| &**i)) {
            builder.append_extension(extension).unwrap();
        }
    }
    builder.sign(issuer_key, profile.signed_with).unwrap();
    let certificate = builder.build();
    let parsed = |c: &X509| Certificate::from_der(&c.to_der().unwrap()).unwrap();
    let mut chain = Vec::new();
    if profile.chain {
        chain.push(parsed(ca));
        chain.extend(other.iter().map(|(c, _)| parsed(c)));
    }
    Forger {
        key,
        identity: Identity {
            certificate: parsed(&certificate),
            chain,
            fingerprint: String::new(),
            not_after: Moment::from_unix(profile.to),
        },
        sha1: hex(&certificate.digest(MessageDigest::sha1()).unwrap()),
    }
}

fn extensions(
    profile: &Profile,
    builder: &openssl::x509::X509Builder,
    issuer: Option<&openssl::x509::X509Ref>,
) -> Vec<X509Extension> {
    let context = builder.x509v3_context(issuer, None);
    let mut extensions = Vec::new();
    if profile.subject_key_identifier {
        extensions.push(SubjectKeyIdentifier::new().build(&context).unwrap());
    }
    if profile.authority_key_identifier && issuer.is_some() {
        extensions.push(
            AuthorityKeyIdentifier::new().keyid(false).issuer(false).build(&context).unwrap_or_else(|_| {
                // An issuer without a key identifier of its own has none to point at.
                SubjectKeyIdentifier::new().build(&context).unwrap()
            }),
        );
    }
    if let Some(usage) = &profile.key_usage {
        extensions.push(usage.build().unwrap());
    }
    let mut san = SubjectAlternativeName::new();
    profile.san.iter().for_each(|address| {
        san.email(address);
    });
    if let Some(dns) = &profile.san_dns {
        san.dns(dns);
    }
    if profile.san_critical {
        san.critical();
    }
    if !profile.san.is_empty() || profile.san_dns.is_some() {
        extensions.push(san.build(&context).unwrap());
    }
    if let Some(ca) = profile.basic_constraints {
        let mut constraints = BasicConstraints::new();
        if ca {
            constraints.ca();
        }
        extensions.push(constraints.build().unwrap());
    }
    if let Some(usage) = profile.extended {
        extensions.push(ExtendedKeyUsage::new().other(usage).build().unwrap());
    }
    if let Some(critical) = profile.unknown {
        let oid = Asn1Object::from_str("1.3.6.1.4.1.99999.1").unwrap();
        let value = Asn1OctetString::new_from_bytes(&[0x05, 0x00]).unwrap();
        extensions.push(X509Extension::new_from_der(&oid, critical, &value).unwrap());
    }
    extensions
}

/// A signed message: its parts may be anything.
#[derive(Clone)]
pub struct Forgery {
    /// daticert.xml.
    pub daticert: Vec<u8>,
    /// The header of the part that holds it.
    pub daticert_header: String,
    /// How its bytes stand in the part: base64 if nothing else is said.
    pub daticert_encoded: Option<Vec<u8>>,
    /// postacert.eml; `None` for none.
    pub postacert: Option<Vec<u8>>,
    /// The header of the part that holds it.
    pub postacert_header: String,
    /// More parts, whole.
    pub more: Vec<Vec<u8>>,
    /// The type of what is signed.
    pub mixed: String,
    /// The header of the whole.
    pub header: Header,
    /// Reverse path.
    pub sender: String,
    /// Forward paths.
    pub recipients: Vec<String>,
    /// Changes the signature.
    pub signature: Option<Vec<u8>>,
    /// The header of the part that holds it.
    pub signature_header: String,
    /// How the signature stands there: base64 if nothing else is said.
    pub signature_encoded: Option<Vec<u8>>,
}

/// daticert.xml of an envelope from Anna to Bruno with this identifier.
pub fn daticert(identificativo: &str) -> String {
    let at = Moment::from_unix(NOW - 60);
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<postacert tipo=\"posta-certificata\" \
        errore=\"nessuno\">\n    <intestazione>\n        \
         <mittente>{ANNA}</mittente>\n        <destinatari \
        tipo=\"certificato\">{BRUNO}</destinatari>\n        <risposte>{ANNA}</risposte>\n        \
         <oggetto>Prova</oggetto>\n    </intestazione>\n    <dati>\n        <gestore-emittente>Alfa PEC \
        S.p.A.</gestore-emittente>\n        \
         <data zona=\"{}\">\n            <giorno>{}</giorno>\n            <ora>{}</ora>\n        \
        </data>\n        \
         <identificativo>{identificativo}</identificativo>\n        \
        <msgid>&lt;1@client.test&gt;</msgid>\n        \
         <ricevuta tipo=\"completa\"/>\n    </dati>\n</postacert>\n",
        at.zona(),
        at.giorno(),
        at.ora()
    )
}

impl Forgery {
    /// A correct envelope from Anna to Bruno, with an identifier made from `name`.
    pub fn envelope(name: &str) -> Self {
        let identificativo =
            format!("pec.20261118.{}@gestore.alfa.test", &hex(&sha256(name.as_bytes()))[..24]);
        let mut header = Header::default();
        for (name, value) in [
            (
                "Received",
                "from client.test by mail.gestore.alfa.test (Postfix) with ESMTPSA id 4jX; Thu, 19 Nov 2026 \
                00:00:00 +0100",
            ),
            ("To", BRUNO),
            ("Date", "Wed, 18 Nov 2026 23:25:40 +0100"),
            ("From", &format!("\"Per conto di: {ANNA}\" <{ALFA_SIGNS}>")),
            ("Reply-To", ANNA),
            ("Message-ID", &format!("<{identificativo}>")),
            ("Subject", "POSTA CERTIFICATA: Prova"),
            ("X-Trasporto", "posta-certificata"),
            ("X-TipoRicevuta", "completa"),
            ("X-Riferimento-Message-ID", "<1@client.test>"),
            ("MIME-Version", "1.0"),
        ] {
            header.push(Field::written(name, value));
        }
        Self {
            daticert: daticert(&identificativo).into_bytes(),
            daticert_header: "Content-Type: application/xml; \
                name=\"daticert.xml\"\r\nContent-Transfer-Encoding: base64\r\n\
                              Content-Disposition: inline; filename=\"daticert.xml\"\r\n"
                .to_owned(),
            daticert_encoded: None,
            postacert: Some(
                format!(
                    "From: {ANNA}\r\nTo: {BRUNO}\r\nSubject: Prova\r\nMessage-ID: \
                <{identificativo}>\r\n\r\nCiao\r\n"
                )
                .into_bytes(),
            ),
            postacert_header: "Content-Type: message/rfc822; \
                name=\"postacert.eml\"\r\nContent-Transfer-Encoding: 7bit\r\n"
                .to_owned(),
            more: Vec::new(),
            mixed: "multipart/mixed; boundary=\"m\"".to_owned(),
            header,
            sender: format!("<{ANNA}>"),
            recipients: vec![format!("<{BRUNO}>")],
            signature: None,
            signature_header: "Content-Type: application/x-pkcs7-signature; \
                name=\"smime.p7s\"\r\nContent-Transfer-Encoding: base64\r\n"
                .to_owned(),
            signature_encoded: None,
        }
    }

    /// A correct receipt of this type from Alfa about the envelope `identificativo`, for somebody at Beta.
    pub fn receipt(tipo: &str, identificativo: &str, about: &str) -> Self {
        let mut receipt = Self::envelope(&format!("{tipo} {identificativo} {about}"));
        let xml = daticert(identificativo)
            .replace("tipo=\"posta-certificata\"", &format!("tipo=\"{tipo}\""))
            .replace(ANNA, "beppe@pec.beta.test")
            .replace(BRUNO, "anna@pec.alfa.test")
            .replace("</dati>", &format!("{about}</dati>"));
        receipt.daticert = xml.into_bytes();
        receipt.postacert = None;
        receipt
            .header
            .fields_mut()
            .retain(|f| !f.name.starts_with("X-") && !f.is("Reply-To") && !f.is("From"));
        let mut receipt =
            receipt.field("From", ALFA_SIGNS).field("Subject", &format!("{} Prova", subject_prefix(tipo)));
        receipt.header.push(Field::written("X-Ricevuta", tipo));
        receipt.sender = format!("<{ALFA_SIGNS}>");
        receipt.recipients = vec!["<beppe@pec.beta.test>".to_owned()];
        receipt
    }

    /// The XML with one thing in place of another.
    #[must_use]
    pub fn xml(mut self, from: &str, to: &str) -> Self {
        let xml = String::from_utf8(self.daticert).unwrap();
        assert!(xml.contains(from), "{from:?} is not in {xml}");
        self.daticert = xml.replacen(from, to, 1).into_bytes();
        self
    }

    /// The header field set to this, or added.
    #[must_use]
    pub fn field(mut self, name: &str, value: &str) -> Self {
        self.header.fields_mut().retain(|f| !f.is(name));
        self.header.push(Field::written(name, value));
        self
    }

    /// One more header field.
    #[must_use]
    pub fn also(mut self, name: &str, value: &str) -> Self {
        self.header.push(Field::written(name, value));
        self
    }

    /// Changes it.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// What is signed.
    pub fn content(&self) -> Vec<u8> {
        let boundary = self
            .mixed
            .split("boundary=")
            .nth(1)
            .unwrap_or("m")
            .split(';')
            .next()
            .unwrap_or("m")
            .trim_matches('"')
            .to_owned();
        let mut content = format!(
            "Content-Type: {}\r\n\r\n--{boundary}\r\nContent-Type: text/plain\r\n\r\nMessaggio di \
                posta certificata\r\n",
            self.mixed
        )
        .into_bytes();
        let mut part = |header: &str, bytes: &[u8]| {
            content.extend_from_slice(format!("\r\n--{boundary}\r\n{header}\r\n").as_bytes());
            content.extend_from_slice(bytes);
        };
        if !self.daticert_header.is_empty() {
            let encoded = self
                .daticert_encoded
                .clone()
                .unwrap_or_else(|| encodify::base64::MIME.encode(&self.daticert).into_bytes());
            part(&self.daticert_header, &encoded);
        }
        if let Some(postacert) = &self.postacert {
            part(&self.postacert_header, postacert);
        }
        for more in &self.more {
            content.extend_from_slice(format!("\r\n--{boundary}\r\n").as_bytes());
            content.extend_from_slice(more);
        }
        content.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        content
    }

    /// The message, signed by `signer`.
    pub fn signed(&self, signer: &dyn Signer) -> Mail {
        let content = self.content();
        let signature = self.signature.clone().unwrap_or_else(|| signature(signer, &content));
        let signature = self
            .signature_encoded
            .clone()
            .unwrap_or_else(|| encodify::base64::MIME.encode(&signature).into_bytes());
        let mut body = b"This is an S/MIME signed message\r\n\r\n--s\r\n".to_vec();
        body.extend_from_slice(&content);
        body.extend_from_slice(format!("\r\n--s\r\n{}\r\n", self.signature_header).as_bytes());
        body.extend_from_slice(&signature);
        body.extend_from_slice(b"\r\n--s--\r\n");
        let mut header = self.header.clone();
        if header.first("Content-Type").is_none() {
            let value = "multipart/signed; protocol=\"application/x-pkcs7-signature\"; micalg=\"sha-256\"; \
                boundary=\"s\"";
            header.push(Field::written("Content-Type", value));
        }
        Mail {
            queue_id: "4jHOSTILE".to_owned(),
            account: None,
            tls: true,
            sender: self.sender.clone(),
            recipients: self.recipients.clone(),
            header,
            body,
        }
    }
}

/// A correct signature over `content`.
pub fn signature(signer: &dyn Signer, content: &[u8]) -> Vec<u8> {
    detached(signer, &sha256(content), Moment::from_unix(NOW - 60)).unwrap()
}

/// A signature with its SignedData changed.
pub fn changed_cms(signature: &[u8], change: impl FnOnce(&mut SignedData)) -> Vec<u8> {
    let info = ContentInfo::from_der(signature).unwrap();
    let mut data: SignedData = info.content.decode_as().unwrap();
    change(&mut data);
    ContentInfo { content_type: info.content_type, content: Any::from_der(&data.to_der().unwrap()).unwrap() }
        .to_der()
        .unwrap()
}

/// With what the subject of a receipt begins.
fn subject_prefix(tipo: &str) -> &'static str {
    match tipo {
        "accettazione" => "ACCETTAZIONE:",
        "non-accettazione" => "AVVISO DI NON ACCETTAZIONE:",
        "presa-in-carico" => "PRESA IN CARICO:",
        "avvenuta-consegna" => "CONSEGNA:",
        "errore-consegna" => "AVVISO DI MANCATA CONSEGNA:",
        "preavviso-errore-consegna" => "AVVISO DI MANCATA CONSEGNA PER SUP. TEMPO MASSIMO:",
        "rilevazione-virus" => "PROBLEMA DI SICUREZZA:",
        _ => "POSTA CERTIFICATA:",
    }
}
