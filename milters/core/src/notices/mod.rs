//! The messages that a provider writes, one file each: its wording, its header, its daticert.xml.
//!
//! Promise: the strings are those of the deployed network; Italian stands first, English below a rule; the
//! same input gives the same bytes (boundaries and signature derive from the Message-ID and the moment), so
//! that a notice that has to be made again for the same fact is the same message.

pub mod accettazione;
pub mod anomalia;
pub mod avvenuta_consegna;
pub mod busta;
pub mod mancata_consegna;
pub mod non_accettazione;
pub mod preavviso;
pub mod presa_in_carico;
pub mod rilevazione_virus;
mod testo;

use mail_builder::headers::Header as _;
use mail_builder::headers::raw::Raw;
use openssl::sha::sha256;
use testo::Testo;

use crate::clock::Moment;
use crate::daticert::Daticert;
use crate::header::{Field, Header};
use crate::identifier::hex;
use crate::message::Body;
use crate::smime::SIGNATURE_TYPE;
use crate::smime::sign::{SignError, Signer, detached};

/// Characters of a subject that a header repeats: in encoded words they can take sixteen times as many bytes,
/// and Postfix cuts a field at 60,000. daticert.xml has all of them.
const LONGEST_SUBJECT: usize = 3000;

/// The local part of the address that signs (RFC 6109 s. 2.2.6).
pub const SERVICE_LOCAL_PART: &str = "posta-certificata";

/// The provider that writes.
#[derive(Clone, Copy)]
pub struct Issuer<'a> {
    /// `gestore-emittente`.
    pub provider_name: &'a str,
    /// The domain of the service address and of all identifiers.
    pub service_domain: &'a str,
    /// The provider's key.
    pub signer: &'a dyn Signer,
}

impl Issuer<'_> {
    /// The address from which everything is sent: `posta-certificata@service-domain`.
    pub fn address(&self) -> String {
        service_address(self.service_domain)
    }
}

/// `posta-certificata@` the given service domain.
pub fn service_address(service_domain: &str) -> String {
    format!("{SERVICE_LOCAL_PART}@{service_domain}")
}

/// A finished message.
#[derive(Debug, Clone)]
pub struct Notice {
    /// All header fields. The order is a wish: a message that is changed in place keeps the order of what it
    /// was.
    pub header: Header,
    /// The signed body.
    pub body: Body,
    /// SHA-256 of what is signed in it.
    pub content_sha256: [u8; 32],
}

/// The header of a receipt or notice: RFC 6109 s. 3, the differences being `prefix` and `x_ricevuta`.
fn receipt_header(
    issuer: Issuer<'_>,
    busta: &Daticert,
    to: &str,
    moment: Moment,
    message_id: &str,
    prefix: &str,
    x_ricevuta: &str,
) -> Header {
    let mut header = Header::default();
    header.push(Field::written("Date", &moment.rfc5322()));
    header.push(Field::written("From", &issuer.address()));
    header.push(Field::written("To", to));
    header.push(Field::written("Message-ID", &format!("<{message_id}>")));
    header.push(subject(prefix, busta.oggetto.as_deref().unwrap_or_default()));
    header.push(Field::written("X-Ricevuta", x_ricevuta));
    if let Some(msgid) = &busta.msgid {
        header.push(Field::written("X-Riferimento-Message-ID", msgid));
    }
    header
}

/// `From:` of what a provider sends on for somebody.
fn per_conto_di(issuer: Issuer<'_>, mittente: &str) -> Field {
    let quoted = mittente.replace('\\', "\\\\").replace('"', "\\\"");
    Field::written("From", &format!("\"Per conto di: {quoted}\" <{}>", issuer.address()))
}

/// `Subject:`: the prefix as it is, what follows in encoded words where it is not plain ASCII (RFC 2047),
/// folded.
fn subject(prefix: &str, oggetto: &str) -> Field {
    let oggetto = match oggetto.char_indices().nth(LONGEST_SUBJECT) {
        Some((end, _)) => format!("{}...", &oggetto[..end]),
        None => oggetto.to_owned(),
    };
    let oggetto = oggetto.as_str();
    let mut value = format!(" {prefix} ").into_bytes();
    let column = "Subject:".len() + value.len();
    // A text that looks like an encoded word would be decoded by whoever reads it.
    if oggetto.is_ascii() && !oggetto.contains("=?") && oggetto.split(' ').all(|word| word.len() < 70) {
        Raw::new(oggetto).write_header(&mut value, column);
    } else {
        encodify::rfc2047::Q_TEXT.encode_words(
            "utf-8",
            oggetto,
            &mut { column },
            encodify::Fold::HEADER,
            &mut value,
        );
    }
    Field { name: "Subject".to_owned(), value: value.trim_ascii_end().to_vec() }
}

/// Puts the parts of a certified message together and signs them. `original` is the complete postacert.eml,
/// if the message carries one.
fn signed(
    issuer: Issuer<'_>,
    header: Header,
    testo: &Testo,
    daticert: &Daticert,
    original: Option<Body>,
    message_id: &str,
) -> Result<Notice, SignError> {
    assembled(issuer, header, testo, Some(daticert), original, message_id, daticert.data)
}

/// The same for any message of ours: the boundaries derive from `seed`, which nobody knew who wrote the
/// original; the signature is of `moment`.
fn assembled(
    issuer: Issuer<'_>,
    mut header: Header,
    testo: &Testo,
    daticert: Option<&Daticert>,
    original: Option<Body>,
    seed: &str,
    moment: Moment,
) -> Result<Notice, SignError> {
    let boundary = |part: &str| format!("----=_PEC_{part}_{}", &hex(&sha256(seed.as_bytes()))[..32]);
    let (outer, mixed, alternative) = (boundary("signed"), boundary("mixed"), boundary("text"));
    // RFC 1847 wants 7 bits inside a signature. An original that came in 8 bits is carried untouched all the
    // same, and said.
    let is_8bit = original.as_ref().is_some_and(Body::has_8bit);
    let encoding = if is_8bit { "Content-Transfer-Encoding: 8bit\r\n" } else { "" };

    let mut content = Body::default();
    content.push(format!(
        "Content-Type: multipart/mixed; boundary=\"{mixed}\"\r\n\
         {encoding}\r\n\
         --{mixed}\r\n\
         Content-Type: multipart/alternative; boundary=\"{alternative}\"\r\n\
         \r\n\
         --{alternative}\r\n\
         Content-Type: text/plain; charset=\"iso-8859-1\"\r\n\
         Content-Transfer-Encoding: quoted-printable\r\n\
         Content-Disposition: inline\r\n\
         \r\n\
         {}\r\n\
         --{alternative}\r\n\
         Content-Type: text/html; charset=\"iso-8859-1\"\r\n\
         Content-Transfer-Encoding: quoted-printable\r\n\
         Content-Disposition: inline\r\n\
         \r\n\
         {}\r\n\
         --{alternative}--\r\n",
        testo.plain(),
        testo.html(),
    ));
    if let Some(daticert) = daticert {
        content.push(format!(
            "\r\n--{mixed}\r\n\
             Content-Type: application/xml; name=\"daticert.xml\"\r\n\
             Content-Transfer-Encoding: base64\r\n\
             Content-Disposition: inline; filename=\"daticert.xml\"\r\n\
             \r\n\
             {}",
            base64_lines(daticert.to_xml().as_bytes()),
        ));
    }
    if let Some(original) = original {
        content.push(format!(
            "\r\n--{mixed}\r\n\
             Content-Type: message/rfc822; name=\"postacert.eml\"\r\n\
             Content-Transfer-Encoding: {}\r\n\
             Content-Disposition: inline; filename=\"postacert.eml\"\r\n\
             \r\n",
            if is_8bit { "8bit" } else { "7bit" },
        ));
        content.append(original);
    }
    content.push(format!("\r\n--{mixed}--\r\n"));

    let content_sha256 = content.sha256();
    let signature = detached(issuer.signer, &content_sha256, moment)?;
    let mut body = Body::default();
    body.push(format!("This is an S/MIME signed message\r\n\r\n--{outer}\r\n"));
    body.append(content);
    body.push(format!(
        "\r\n--{outer}\r\n\
         Content-Type: {SIGNATURE_TYPE}; name=\"smime.p7s\"\r\n\
         Content-Transfer-Encoding: base64\r\n\
         Content-Disposition: attachment; filename=\"smime.p7s\"\r\n\
         \r\n\
         {}\r\n\
         --{outer}--\r\n",
        base64_lines(&signature),
    ));

    header.push(Field::written("MIME-Version", "1.0"));
    header.push(Field::written(
        "Content-Type",
        &format!(
            "multipart/signed; protocol=\"{SIGNATURE_TYPE}\"; micalg=\"sha-256\";\r\n\tboundary=\"{outer}\""
        ),
    ));
    if is_8bit {
        header.push(Field::written("Content-Transfer-Encoding", "8bit"));
    }
    Ok(Notice { header, body, content_sha256 })
}

/// Base64 in lines of 76 characters, the last with its CRLF too.
fn base64_lines(bytes: &[u8]) -> String {
    let mut encoded = encodify::base64::MIME.encode(bytes);
    if !encoded.ends_with('\n') {
        encoded.push_str("\r\n");
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_keep_their_prefix_readable() {
        let text = |field: Field| String::from_utf8(field.value).unwrap();
        assert_eq!(text(subject("ACCETTAZIONE:", "Prova")), " ACCETTAZIONE: Prova");
        assert_eq!(text(subject("ACCETTAZIONE:", "")), " ACCETTAZIONE:");
        assert!(
            text(subject("POSTA CERTIFICATA:", "Città")).starts_with(" POSTA CERTIFICATA: =?utf-8?"),
            "{}",
            text(subject("POSTA CERTIFICATA:", "Città"))
        );
        let long = "una parola dopo l'altra fino a che la riga non basta più ".repeat(4);
        for oggetto in [long.trim(), "x".repeat(300).as_str(), "=?utf-8?Q?no?=", "ascii ".repeat(40).trim()] {
            let field = subject("CONSEGNA:", oggetto);
            assert!(field.value.split(|&b| b == b'\n').all(|line| line.len() <= 80), "{}", text(field));
            let mut header = Header::default();
            header.push(field);
            assert_eq!(header.subject().as_deref(), Some(format!("CONSEGNA: {oggetto}").as_str()));
        }
    }
}
