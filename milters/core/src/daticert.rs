//! The certification data, `daticert.xml` (RFC 6109 s. 4.4).
//!
//! Promise: what is written is valid against the DTD and the same for the same data; what is read follows the
//! DTD's content model in order, without a document type, without entities beyond XML's own five, or is
//! refused with the reason.

use std::str::FromStr;

use quick_xml::escape::{escape, resolve_predefined_entity};
use quick_xml::events::{BytesStart, Event};
use quick_xml::reader::Reader;

use crate::clock::Moment;
use crate::identifier::is_identifier;

/// The largest daticert.xml that is read. One of 500 recipients has some 50,000 bytes.
pub const MAX_BYTES: usize = 1024 * 1024;

/// What can stand in a document besides elements.
const END: &str = "the end of the file";
const TEXT: &str = "text";

/// An enumeration whose values have one spelling each, in a document or a table.
#[macro_export]
macro_rules! spelled {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident = $spelling:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$value_doc])* $value,)+ }

        impl $name {
            /// All values.
            pub const ALL: &'static [Self] = &[$(Self::$value,)+];

            /// Its spelling.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$value => $spelling,)+ }
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = ();
            fn from_str(text: &str) -> Result<Self, ()> {
                match text { $($spelling => Ok(Self::$value),)+ _ => Err(()) }
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

spelled! {
    /// `postacert/@tipo`: which message this is.
    Tipo {
        /// Ricevuta di accettazione (RFC 6109 s. 3.1.4).
        Accettazione = "accettazione",
        /// Avviso di non accettazione (s. 3.1.2, 3.1.3).
        NonAccettazione = "non-accettazione",
        /// Ricevuta di presa in carico (s. 3.2.1).
        PresaInCarico = "presa-in-carico",
        /// Ricevuta di avvenuta consegna (s. 3.3.2).
        AvvenutaConsegna = "avvenuta-consegna",
        /// Busta di trasporto (s. 3.1.5).
        PostaCertificata = "posta-certificata",
        /// Avviso di mancata consegna (s. 3.3.3, 3.2.4).
        ErroreConsegna = "errore-consegna",
        /// Avviso di mancata consegna per superamento dei tempi massimi (s. 3.1.6).
        PreavvisoErroreConsegna = "preavviso-errore-consegna",
        /// Avviso di rilevazione virus (s. 3.2.3).
        RilevazioneVirus = "rilevazione-virus",
    }
}

impl Tipo {
    /// Whether it certifies how a message ended for a recipient.
    pub fn is_outcome(self) -> bool {
        match self {
            Self::AvvenutaConsegna | Self::ErroreConsegna | Self::RilevazioneVirus => true,
            Self::Accettazione
            | Self::NonAccettazione
            | Self::PresaInCarico
            | Self::PostaCertificata
            | Self::PreavvisoErroreConsegna => false,
        }
    }
}

spelled! {
    /// `postacert/@errore`.
    Errore {
        /// No error.
        Nessuno = "nessuno",
        /// The mailbox does not exist.
        NoDest = "no-dest",
        /// The domain does not exist.
        NoDominio = "no-dominio",
        /// A virus.
        Virus = "virus",
        /// Anything else.
        Altro = "altro",
    }
}

spelled! {
    /// `destinatari/@tipo`: by the domain, not by the mailbox (RFC 6109 s. 2.2.1).
    TipoDestinatario {
        /// The recipient's domain is certified.
        Certificato = "certificato",
        /// Ordinary mail.
        Esterno = "esterno",
    }
}

spelled! {
    /// `ricevuta/@tipo`: the kind of delivery receipt that the sender asked for (RFC 6109 s. 3.3.2).
    TipoRicevuta {
        /// With the whole original.
        Completa = "completa",
        /// With the original, its attachments replaced by hashes.
        Breve = "breve",
        /// Without the original.
        Sintetica = "sintetica",
    }
}

/// One recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destinatario {
    /// The address.
    pub indirizzo: String,
    /// Certified or ordinary.
    pub tipo: TipoDestinatario,
}

/// The data of one daticert.xml, element by element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daticert {
    /// Which message this is.
    pub tipo: Tipo,
    /// The error, if any.
    pub errore: Errore,
    /// The reverse path of the original.
    pub mittente: String,
    /// The forward paths of the original; never empty.
    pub destinatari: Vec<Destinatario>,
    /// Where replies go; some providers leave it empty.
    pub risposte: String,
    /// The decoded subject of the original, if it had one.
    pub oggetto: Option<String>,
    /// The provider that certifies these data.
    pub gestore_emittente: String,
    /// When.
    pub data: Moment,
    /// The PEC identifier of the envelope, without angle brackets.
    pub identificativo: String,
    /// The Message-ID that the sender's program had given, with angle brackets.
    pub msgid: Option<String>,
    /// The kind of delivery receipt asked for; on envelopes and delivery receipts.
    pub ricevuta: Option<TipoRicevuta>,
    /// The recipient that a delivery receipt or notice is about.
    pub consegna: Option<String>,
    /// The recipients that a presa in carico is about.
    pub ricezione: Vec<String>,
    /// What went wrong, in words, with its code.
    pub errore_esteso: Option<String>,
}

/// Why bytes are no daticert.xml.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DaticertError {
    /// More than [`MAX_BYTES`].
    #[error("daticert.xml has {0} bytes, {MAX_BYTES} are allowed")]
    TooLarge(usize),
    /// Not UTF-8, which RFC 6109 s. 4.3.3 demands.
    #[error("daticert.xml is not UTF-8")]
    NotUtf8,
    /// Not well-formed, or with a construct that has no place there.
    #[error("daticert.xml: {0}")]
    Xml(String),
    /// An element where the DTD has another.
    #[error("daticert.xml: {found} stands where {wanted} should")]
    Unexpected {
        /// What the DTD wants.
        wanted: &'static str,
        /// What stands there.
        found: String,
    },
    /// A value that is not allowed.
    #[error("daticert.xml: {what} is {value:?}")]
    Value {
        /// The element or attribute.
        what: &'static str,
        /// What it holds.
        value: String,
    },
}

impl DaticertError {
    /// The same in Italian, but for the XML reader's own words.
    pub fn italiano(&self) -> String {
        let in_italian = |thing: &str| match thing {
            END => "la fine del file".to_owned(),
            TEXT => "un testo".to_owned(),
            element => element.to_owned(),
        };
        match self {
            Self::TooLarge(bytes) => format!("daticert.xml ha {bytes} byte, il massimo è {MAX_BYTES}"),
            Self::NotUtf8 => "daticert.xml non è in UTF-8".to_owned(),
            Self::Xml(words) => format!("daticert.xml non è XML valido ({words})"),
            Self::Unexpected { wanted, found } => {
                format!("daticert.xml: al posto di {} si trova {}", in_italian(wanted), in_italian(found))
            }
            Self::Value { what, value } => format!("daticert.xml: il valore di {what} è {value:?}"),
        }
    }
}

impl Daticert {
    /// The data of a notice about the same envelope: its header data, with another type, time and issuer, and
    /// nothing yet of what only some notices have.
    pub fn about_same_message(&self, tipo: Tipo, gestore_emittente: &str, data: Moment) -> Self {
        Self {
            tipo,
            errore: Errore::Nessuno,
            gestore_emittente: gestore_emittente.to_owned(),
            data,
            ricevuta: None,
            consegna: None,
            ricezione: Vec::new(),
            errore_esteso: None,
            ..self.clone()
        }
    }

    /// The file: UTF-8, LF, four blanks of indentation, `errore` always explicit, as the deployed network
    /// writes it.
    pub fn to_xml(&self) -> String {
        let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        xml += &format!("<postacert tipo=\"{}\" errore=\"{}\">\n", self.tipo, self.errore);
        xml += "    <intestazione>\n";
        xml += &element(2, "mittente", &self.mittente);
        for d in &self.destinatari {
            xml +=
                &format!("        <destinatari tipo=\"{}\">{}</destinatari>\n", d.tipo, text(&d.indirizzo));
        }
        xml += &element(2, "risposte", &self.risposte);
        if let Some(oggetto) = &self.oggetto {
            xml += &element(2, "oggetto", oggetto);
        }
        xml += "    </intestazione>\n    <dati>\n";
        xml += &element(2, "gestore-emittente", &self.gestore_emittente);
        xml += &format!("        <data zona=\"{}\">\n", self.data.zona());
        xml += &element(3, "giorno", &self.data.giorno());
        xml += &element(3, "ora", &self.data.ora());
        xml += "        </data>\n";
        xml += &element(2, "identificativo", &self.identificativo);
        if let Some(msgid) = &self.msgid {
            xml += &element(2, "msgid", msgid);
        }
        if let Some(ricevuta) = self.ricevuta {
            xml += &format!("        <ricevuta tipo=\"{ricevuta}\"/>\n");
        }
        if let Some(consegna) = &self.consegna {
            xml += &element(2, "consegna", consegna);
        }
        for ricezione in &self.ricezione {
            xml += &element(2, "ricezione", ricezione);
        }
        if let Some(errore) = &self.errore_esteso {
            xml += &element(2, "errore-esteso", errore);
        }
        xml += "    </dati>\n</postacert>\n";
        xml
    }

    /// Reads the file strictly.
    pub fn parse(bytes: &[u8]) -> Result<Self, DaticertError> {
        if bytes.len() > MAX_BYTES {
            return Err(DaticertError::TooLarge(bytes.len()));
        }
        let xml = std::str::from_utf8(bytes).map_err(|_| DaticertError::NotUtf8)?;
        if bytes.iter().any(|b| *b < b' ' && !matches!(b, b'\t' | b'\n' | b'\r')) {
            return Err(DaticertError::Xml("a control character is not allowed".into()));
        }
        let mut elements = Elements::new(xml.strip_prefix('\u{feff}').unwrap_or(xml));

        let postacert = elements.open("postacert")?;
        let tipo = attribute(&postacert, "tipo", "postacert/@tipo")?;
        let errore =
            optional_attribute(&postacert, "errore", "postacert/@errore")?.unwrap_or(Errore::Nessuno);

        elements.open("intestazione")?;
        let mittente = elements.text("mittente")?;
        let mut destinatari = vec![elements.destinatario()?];
        while elements.at("destinatari") {
            destinatari.push(elements.destinatario()?);
        }
        let risposte = elements.text("risposte")?;
        let oggetto = elements.optional_text("oggetto")?;
        elements.close("intestazione")?;

        elements.open("dati")?;
        let gestore_emittente = elements.text("gestore-emittente")?;
        let data = elements.open("data")?;
        let zona: String = attribute(&data, "zona", "data/@zona")?;
        let (giorno, ora) = (elements.text("giorno")?, elements.text("ora")?);
        elements.close("data")?;
        let data = Moment::from_daticert(&giorno, &ora, &zona)
            .ok_or_else(|| DaticertError::Value { what: "data", value: format!("{giorno} {ora} {zona}") })?;
        let identificativo = elements.text("identificativo")?;
        if !is_identifier(&identificativo) {
            let value = identificativo.chars().take(100).collect();
            return Err(DaticertError::Value { what: "identificativo", value });
        }
        let msgid = elements.optional_text("msgid")?;
        let ricevuta = if elements.at("ricevuta") {
            let ricevuta = elements.open("ricevuta")?;
            elements.close("ricevuta")?;
            Some(attribute(&ricevuta, "tipo", "ricevuta/@tipo")?)
        } else {
            None
        };
        let consegna = elements.optional_text("consegna")?;
        let mut ricezione = Vec::new();
        while let Some(recipient) = elements.optional_text("ricezione")? {
            ricezione.push(recipient);
        }
        let errore_esteso = elements.optional_text("errore-esteso")?;
        elements.close("dati")?;
        elements.close("postacert")?;
        elements.end()?;

        Ok(Self {
            tipo,
            errore,
            mittente,
            destinatari,
            risposte,
            oggetto,
            gestore_emittente,
            data,
            identificativo,
            msgid,
            ricevuta,
            consegna,
            ricezione,
            errore_esteso,
        })
    }
}

fn element(depth: usize, name: &str, content: &str) -> String {
    format!("{:indent$}<{name}>{}</{name}>\n", "", text(content), indent = depth * 4)
}

/// Character data: escaped, on one line.
fn text(content: &str) -> String {
    escape(printable(content)).into_owned()
}

/// Without the characters that XML 1.0 cannot hold, and without those that a terminal or a log would obey.
fn printable(content: &str) -> String {
    content
        .chars()
        .map(|c| if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') { ' ' } else { c })
        .collect()
}

/// A pull reader that knows what element must come next.
struct Elements<'x> {
    reader: Reader<&'x [u8]>,
    /// The event that was looked at but not taken.
    ahead: Option<Event<'x>>,
}

impl<'x> Elements<'x> {
    fn new(xml: &'x str) -> Self {
        let mut reader = Reader::from_str(xml);
        let config = reader.config_mut();
        config.expand_empty_elements = true;
        config.check_comments = true;
        Self { reader, ahead: None }
    }

    /// The next event of substance: comments, the declaration and white space between elements are passed
    /// over.
    fn next(&mut self) -> Result<Event<'x>, DaticertError> {
        if let Some(event) = self.ahead.take() {
            return Ok(event);
        }
        loop {
            match self.reader.read_event().map_err(|e| DaticertError::Xml(e.to_string()))? {
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
                Event::Text(text) if text.as_ref().bytes().all(|b| b.is_ascii_whitespace()) => {}
                Event::DocType(_) => return Err(DaticertError::Xml("a document type is not allowed".into())),
                event => return Ok(event),
            }
        }
    }

    fn at(&mut self, name: &str) -> bool {
        let event = match self.next() {
            Ok(event) => event,
            // The error shows again at the next step: the reader stays where it is.
            Err(_) => return false,
        };
        let found = matches!(&event, Event::Start(start) if start.name().as_ref() == name);
        self.ahead = Some(event);
        found
    }

    fn open(&mut self, name: &'static str) -> Result<BytesStart<'x>, DaticertError> {
        match self.next()? {
            Event::Start(start) if start.name().as_ref() == name => {
                let allowed = match name {
                    "postacert" => &["tipo", "errore"][..],
                    "destinatari" | "ricevuta" => &["tipo"],
                    "data" => &["zona"],
                    _ => &[],
                };
                let mut seen = 0;
                for attribute in start.attributes().with_checks(false) {
                    let attribute = attribute.map_err(|e| DaticertError::Xml(e.to_string()))?;
                    let at = allowed.iter().position(|a| *a == attribute.key.as_ref());
                    match at {
                        Some(at) if seen & (1 << at) == 0 => seen |= 1 << at,
                        _ => {
                            return Err(DaticertError::Xml(format!(
                                "<{name}> has an attribute that is not allowed there, or twice"
                            )));
                        }
                    }
                }
                Ok(start)
            }
            other => Err(unexpected(name, &other)),
        }
    }

    fn close(&mut self, name: &'static str) -> Result<(), DaticertError> {
        match self.next()? {
            Event::End(end) if end.name().as_ref() == name => Ok(()),
            other => Err(unexpected(name, &other)),
        }
    }

    fn end(&mut self) -> Result<(), DaticertError> {
        match self.next()? {
            Event::Eof => Ok(()),
            other => Err(unexpected(END, &other)),
        }
    }

    /// Character data up to the end of the open element `name`, the blanks around it removed.
    fn content(&mut self, name: &'static str) -> Result<String, DaticertError> {
        let mut content = String::new();
        loop {
            match self.reader.read_event().map_err(|e| DaticertError::Xml(e.to_string()))? {
                Event::Text(text) => content += &text.xml10_content(),
                Event::CData(text) => content += &text.xml10_content(),
                Event::Comment(_) => {}
                Event::GeneralRef(entity) => {
                    match entity.resolve_char_ref().map_err(|e| DaticertError::Xml(e.to_string()))? {
                        Some(character) => content.push(character),
                        None => {
                            let entity = entity.into_inner();
                            content += resolve_predefined_entity(&entity).ok_or_else(|| {
                                DaticertError::Xml(format!("the entity {entity:?} is not allowed"))
                            })?;
                        }
                    }
                }
                Event::End(end) if end.name().as_ref() == name => {
                    return Ok(printable(&content).trim().to_owned());
                }
                other => return Err(unexpected(name, &other)),
            }
        }
    }

    fn text(&mut self, name: &'static str) -> Result<String, DaticertError> {
        self.open(name)?;
        self.content(name)
    }

    fn optional_text(&mut self, name: &'static str) -> Result<Option<String>, DaticertError> {
        if self.at(name) { self.text(name).map(Some) } else { Ok(None) }
    }

    fn destinatario(&mut self) -> Result<Destinatario, DaticertError> {
        let start = self.open("destinatari")?;
        let tipo =
            optional_attribute(&start, "tipo", "destinatari/@tipo")?.unwrap_or(TipoDestinatario::Certificato);
        Ok(Destinatario { indirizzo: self.content("destinatari")?, tipo })
    }
}

fn unexpected(wanted: &'static str, found: &Event<'_>) -> DaticertError {
    let found = match found {
        Event::Start(start) => format!("<{}>", start.name().as_ref()),
        Event::End(end) => format!("</{}>", end.name().as_ref()),
        Event::Eof => END.to_owned(),
        _ => TEXT.to_owned(),
    };
    DaticertError::Unexpected { wanted, found }
}

fn optional_attribute<T: FromStr>(
    start: &BytesStart<'_>,
    name: &str,
    what: &'static str,
) -> Result<Option<T>, DaticertError> {
    let Some(found) = start.try_get_attribute(name).map_err(|e| DaticertError::Xml(e.to_string()))? else {
        return Ok(None);
    };
    let value = found.value.trim().to_owned();
    match value.parse() {
        Ok(value) => Ok(Some(value)),
        Err(_) => Err(DaticertError::Value { what, value }),
    }
}

fn attribute<T: FromStr>(start: &BytesStart<'_>, name: &str, what: &'static str) -> Result<T, DaticertError> {
    optional_attribute(start, name, what)?.ok_or(DaticertError::Value { what, value: String::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Daticert {
        Daticert {
            tipo: Tipo::AvvenutaConsegna,
            errore: Errore::Nessuno,
            mittente: "anna@pec.alfa.test".into(),
            destinatari: vec![
                Destinatario { indirizzo: "bruno@pec.beta.test".into(), tipo: TipoDestinatario::Certificato },
                Destinatario { indirizzo: "carla@posta.test".into(), tipo: TipoDestinatario::Esterno },
            ],
            risposte: "anna@pec.alfa.test".into(),
            oggetto: Some("Città <&> \"virgolette\"".into()),
            gestore_emittente: "Alfa & C. S.p.A.".into(),
            data: Moment::from_unix(1_542_123_566),
            identificativo: "pec.20181113163926.x@gestore.alfa.test".into(),
            msgid: Some("<1$a@x>".into()),
            ricevuta: Some(TipoRicevuta::Completa),
            consegna: Some("bruno@pec.beta.test".into()),
            ricezione: vec![],
            errore_esteso: None,
        }
    }

    #[test]
    fn rfc6109_4_4_what_is_written_is_read_back() {
        let mut all = vec![example()];
        all.push(Daticert {
            oggetto: None,
            msgid: None,
            ricevuta: None,
            consegna: None,
            ricezione: vec!["a@b".into(), "c@d".into()],
            tipo: Tipo::PresaInCarico,
            ..example()
        });
        all.push(Daticert {
            errore: Errore::NoDest,
            tipo: Tipo::ErroreConsegna,
            errore_esteso: Some("5.1.1 - Beta - indirizzo non valido".into()),
            risposte: String::new(),
            ..example()
        });
        for daticert in all {
            assert_eq!(Daticert::parse(daticert.to_xml().as_bytes()).unwrap(), daticert);
        }
    }

    #[test]
    fn rfc6109_4_4_what_is_written_is_this() {
        let all = Daticert {
            ricezione: vec!["a@b".into(), "c@d".into()],
            errore_esteso: Some("x".into()),
            ..example()
        };
        let xml = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
            <postacert tipo=\"avvenuta-consegna\" errore=\"nessuno\">\n    <intestazione>\n        \
            <mittente>anna@pec.alfa.test</mittente>\n        \
            <destinatari tipo=\"certificato\">bruno@pec.beta.test</destinatari>\n        <destinatari \
            tipo=\"esterno\">carla@posta.test</destinatari>\n        \
            <risposte>anna@pec.alfa.test</risposte>\n        <oggetto>Città &lt;&amp;&gt; \
            &quot;virgolette&quot;</oggetto>\n    </intestazione>\n    \
            <dati>\n        <gestore-emittente>Alfa &amp; C. S.p.A.</gestore-emittente>\n        <data \
            zona=\"+0100\">\n            \
            <giorno>13/11/2018</giorno>\n            <ora>16:39:26</ora>\n        </data>\n        \
            <identificativo>pec.20181113163926.x@gestore.alfa.test</identificativo>\n        \
            <msgid>&lt;1$a@x&gt;</msgid>\n        \
            <ricevuta tipo=\"completa\"/>\n        <consegna>bruno@pec.beta.test</consegna>\n        \
            <ricezione>a@b</ricezione>\n        <ricezione>c@d</ricezione>\n        \
            <errore-esteso>x</errore-esteso>\n    \
            </dati>\n</postacert>\n";
        assert_eq!(all.to_xml(), xml);
        let bare =
            Daticert { oggetto: None, msgid: None, ricevuta: None, consegna: None, ..example() }.to_xml();
        assert!(
            !["oggetto", "msgid", "ricevuta", "consegna>", "ricezione", "errore-esteso"]
                .iter()
                .any(|name| bare.contains(name)),
            "{bare}"
        );
    }

    #[test]
    fn a_notice_about_the_same_envelope_has_its_data_and_nothing_of_another_notice() {
        let busta = Daticert {
            errore: Errore::Virus,
            ricezione: vec!["a@b".into()],
            errore_esteso: Some("x".into()),
            ..example()
        };
        let at = Moment::from_unix(1_600_000_000);
        let expected = Daticert {
            tipo: Tipo::Accettazione,
            gestore_emittente: "Beta".into(),
            data: at,
            ricevuta: None,
            consegna: None,
            ..example()
        };
        assert_eq!(busta.about_same_message(Tipo::Accettazione, "Beta", at), expected);
    }

    #[test]
    fn whatever_xml_allows_between_and_in_elements_is_read() {
        let xml = example().to_xml();
        let subject = |oggetto: &str| Daticert { oggetto: Some(oggetto.into()), ..example() };
        let replaced = |with: &str| {
            Daticert::parse(xml.replace("Città &lt;&amp;&gt; &quot;virgolette&quot;", with).as_bytes())
        };
        assert_eq!(replaced(" \t\r\n Citt\u{e0} \n"), Ok(subject("Città")));
        assert_eq!(
            replaced("Citt&#224; &#xe8;<!-- x --> &lt;&amp;&gt;&quot;&apos;"),
            Ok(subject("Città è <&>\"'"))
        );
        assert_eq!(replaced("a<![CDATA[<b> & c]]>d"), Ok(subject("a<b> & cd")));
        assert_eq!(replaced(""), Ok(subject("")));
        assert_eq!(
            Daticert::parse(
                format!("\u{feff}{}\n<?x y?>\n<!-- z -->", xml.replace("<dati>", "<!-- x -->\t<dati>"))
                    .as_bytes()
            ),
            Ok(example())
        );
    }

    #[test]
    fn both_dialects_are_read() {
        let jpec = example().to_xml().replace("errore=\"nessuno\"", "").replace("\n", "\r\n") + "\r\n";
        assert_eq!(Daticert::parse(jpec.as_bytes()).unwrap(), example());
        let openpec = example()
            .to_xml()
            .replace("<ricevuta tipo=\"completa\"/>", "<ricevuta tipo='completa' ></ricevuta><!-- x -->");
        assert_eq!(Daticert::parse(openpec.as_bytes()).unwrap(), example());
    }

    #[test]
    fn control_characters_do_not_break_the_file() {
        let daticert = Daticert { oggetto: Some("a\u{0}b\nc\u{ffff}d\u{fffe}e".into()), ..example() };
        assert_eq!(
            Daticert::parse(daticert.to_xml().as_bytes()).unwrap().oggetto.as_deref(),
            Some("a b c d e")
        );
    }

    #[test]
    fn anything_but_the_dtd_is_refused() {
        let good = example().to_xml();
        for (what, from, to) in [
            ("order", "<mittente>anna@pec.alfa.test</mittente>", ""),
            ("unknown element", "<dati>", "<dati><altro/>"),
            ("unknown type", "avvenuta-consegna", "consegnato"),
            ("unknown error", "nessuno", "boh"),
            ("unknown recipient type", "esterno", "interno"),
            ("document type", "<postacert", "<!DOCTYPE postacert [<!ENTITY x \"y\">]><postacert"),
            ("entity", "Città", "&x;"),
            ("no such day", "13/11/2018", "32/11/2018"),
            ("two roots", "</postacert>", "</postacert><postacert/>"),
            ("cut", "</dati>", ""),
            ("text between elements", "<dati>", "text<dati>"),
            ("repeated msgid", "<msgid>", "<msgid>a</msgid><msgid>"),
            ("unknown attribute", "<dati>", "<dati x=\"y\">"),
            ("attribute of another element", "<data zona", "<data tipo=\"x\" zona"),
            ("attribute of another element", "<ricevuta tipo", "<ricevuta errore=\"x\" tipo"),
            ("attribute twice", "tipo=\"completa\"", "tipo=\"completa\" tipo=\"completa\""),
            ("second attribute twice", "errore=\"nessuno\"", "errore=\"nessuno\" errore=\"nessuno\""),
            ("three attributes", "errore=\"nessuno\"", "errore=\"nessuno\" x=\"y\""),
            ("no type", " tipo=\"avvenuta-consegna\"", ""),
            ("no zone", " zona=\"+0100\"", ""),
            ("no type of receipt", " tipo=\"completa\"", ""),
            ("element in a text", "Città", "<b>Città</b>"),
            (
                "an element in the receipt's type",
                "/>\n        <consegna>",
                "><x/></ricevuta>\n        <consegna>",
            ),
            ("no identifier", "pec.20181113163926.x@gestore.alfa.test", "x"),
            ("control character", "Città", "Citt\u{1f}"),
            ("another root", "<postacert ", "<postacert><postacert "),
        ] {
            let bad = good.replacen(from, to, 1);
            assert_ne!(bad, good, "{what}");
            assert!(Daticert::parse(bad.as_bytes()).is_err(), "{what}");
        }
        assert_eq!(MAX_BYTES, 1_048_576);
        assert!(!matches!(Daticert::parse(&vec![b' '; MAX_BYTES]), Err(DaticertError::TooLarge(_))));
    }

    #[test]
    fn what_is_wrong_is_said_in_both_languages() {
        let good = example().to_xml();
        let error = |from: &str, to: &str| {
            let error = Daticert::parse(good.replacen(from, to, 1).as_bytes()).unwrap_err();
            (error.to_string(), error.italiano())
        };
        for (from, to, english, italian) in [
            (
                "<mittente>anna@pec.alfa.test</mittente>",
                "",
                "daticert.xml: <destinatari> stands where mittente should",
                "daticert.xml: al posto di mittente si trova <destinatari>",
            ),
            (
                "<dati>",
                "x<dati>",
                "daticert.xml: text stands where dati should",
                "daticert.xml: al posto di dati si trova un testo",
            ),
            (
                "</postacert>",
                "</postacert><postacert/>",
                "daticert.xml: <postacert> stands where the end of the file should",
                "daticert.xml: al posto di la fine del file si trova <postacert>",
            ),
            (
                "<consegna>bruno@pec.beta.test</consegna>\n    </dati>",
                "</dati><consegna>",
                "daticert.xml: <consegna> stands where postacert should",
                "daticert.xml: al posto di postacert si trova <consegna>",
            ),
            (
                "<risposte>anna@pec.alfa.test</risposte>\n        <oggetto>Città &lt;&amp;&gt; \
                &quot;virgolette&quot;</oggetto>\n",
                "",
                "daticert.xml: </intestazione> stands where risposte should",
                "daticert.xml: al posto di risposte si trova </intestazione>",
            ),
            (
                "esterno",
                "interno",
                "daticert.xml: destinatari/@tipo is \"interno\"",
                "daticert.xml: il valore di destinatari/@tipo è \"interno\"",
            ),
            (
                "13/11/2018",
                "32/11/2018",
                "daticert.xml: data is \"32/11/2018 16:39:26 +0100\"",
                "daticert.xml: il valore di data è \"32/11/2018 16:39:26 +0100\"",
            ),
            (
                "Città",
                "&x;",
                "daticert.xml: the entity \"x\" is not allowed",
                "daticert.xml non è XML valido (the entity \"x\" is not allowed)",
            ),
        ] {
            assert_eq!(error(from, to), (english.to_owned(), italian.to_owned()));
        }
        for (bytes, english, italian) in [
            (&b"\xff"[..], "daticert.xml is not UTF-8", "daticert.xml non è in UTF-8"),
            (
                &vec![b' '; MAX_BYTES + 1],
                "daticert.xml has 1048577 bytes, 1048576 are allowed",
                "daticert.xml ha 1048577 byte, il massimo è 1048576",
            ),
            (
                b"",
                "daticert.xml: the end of the file stands where postacert should",
                "daticert.xml: al posto di postacert si trova la fine del file",
            ),
        ] {
            let error = Daticert::parse(bytes).unwrap_err();
            assert_eq!((error.to_string().as_str(), error.italiano().as_str()), (english, italian));
        }
    }
}
