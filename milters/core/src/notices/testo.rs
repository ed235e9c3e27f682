//! The text that people read, in Italian and below it in English, as text/plain and as text/html (RFC 6109 s.
//! 4.3.1).

use crate::clock::Moment;
use crate::daticert::{Daticert, TipoDestinatario};
use crate::showable::{quotable, showable};

/// How the network's Italian/English texts are set apart.
const RULE: &str =
    "-----------------------------------------------------------------------------------------";

/// One language's text: a title and its lines.
pub(super) struct Lingua {
    pub(super) titolo: String,
    pub(super) righe: Vec<String>,
}

impl Lingua {
    pub(super) fn new(titolo: impl Into<String>, righe: impl IntoIterator<Item = String>) -> Self {
        Self { titolo: titolo.into(), righe: righe.into_iter().collect() }
    }
}

/// Both languages.
pub(super) struct Testo {
    pub(super) italiano: Lingua,
    pub(super) inglese: Lingua,
}

impl Testo {
    /// Quoted-printable ISO-8859-1. A character that ISO-8859-1 lacks shows as a question mark; the HTML has
    /// it.
    pub(super) fn plain(&self) -> String {
        let block = |l: &Lingua| {
            let righe: Vec<_> = l.righe.iter().map(|riga| showable(riga)).collect();
            format!("{}\n{}\n", l.titolo, righe.join("\n"))
        };
        let text = format!("{}\n{RULE}\n\n{}", block(&self.italiano), block(&self.inglese));
        let latin1: Vec<u8> = text.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect();
        encodify::qp::BODY.encode(latin1)
    }

    /// Quoted-printable HTML of the same content, with nothing in it that is fetched or runs.
    pub(super) fn html(&self) -> String {
        let block = |l: &Lingua| {
            let righe: Vec<_> = l.righe.iter().map(|riga| escape(&showable(riga))).collect();
            format!("<h3>{}</h3>\n{}<br>\n", escape(&l.titolo), righe.join("<br>\n"))
        };
        let (italiano, inglese) = (block(&self.italiano), block(&self.inglese));
        encodify::qp::BODY.encode(format!(
            "<html>\n<head><title>{}</title></head>\n<body>\n{italiano}<hr>\n{inglese}</body>\n</html>\n",
            escape(&self.italiano.titolo),
        ))
    }
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            c if c.is_ascii() => out.push(c),
            c => out += &format!("&#{};", u32::from(c)),
        }
    }
    out
}

/// `Il giorno dd/mm/yyyy alle ore hh:mm:ss (+hhmm)`.
pub(super) fn il_giorno(moment: Moment) -> String {
    format!("Il giorno {} alle ore {} ({})", moment.giorno(), moment.ora(), moment.zona())
}

/// `On dd/mm/yyyy at hh:mm:ss (+hhmm)`.
pub(super) fn on_the_day(moment: Moment) -> String {
    format!("On {} at {} ({})", moment.giorno(), moment.ora(), moment.zona())
}

/// The subject as texts quote it: it ends no quotes.
pub(super) fn oggetto(busta: &Daticert) -> String {
    quotable(busta.oggetto.as_deref().unwrap_or_default())
}

/// The recipients, one a line.
pub(super) fn destinatari(busta: &Daticert) -> impl Iterator<Item = String> + '_ {
    busta.destinatari.iter().map(|d| quotable(&d.indirizzo))
}

/// The recipients with their kind, one a line, in the words for certified and ordinary mail.
pub(super) fn destinatari_con_tipo<'a>(
    busta: &'a Daticert,
    certificata: &'a str,
    ordinaria: &'a str,
) -> impl Iterator<Item = String> + 'a {
    busta.destinatari.iter().map(move |d| {
        let tipo = match d.tipo {
            TipoDestinatario::Certificato => certificata,
            TipoDestinatario::Esterno => ordinaria,
        };
        format!("{} (\"{tipo}\")", quotable(&d.indirizzo))
    })
}

/// `Identificativo messaggio: ...`.
pub(super) fn identificativo(busta: &Daticert) -> String {
    format!("Identificativo messaggio: {}", busta.identificativo)
}

/// `Message identifier: ...`.
pub(super) fn message_identifier(busta: &Daticert) -> String {
    format!("Message identifier: {}", busta.identificativo)
}
