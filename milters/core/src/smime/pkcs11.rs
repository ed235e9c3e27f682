//! Naming a key on a PKCS#11 token: the URIs of RFC 7512, as far as a key is concerned.
//!
//! Promise: what is not understood is an error, never ignored; a PIN in a URI is refused and not repeated.

use std::fmt;
use std::str::FromStr;

use crate::identifier::unhex;

/// A key on a token: `pkcs11:token=alfa;object=pec`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pkcs11Uri {
    text: String,
    /// The token's label.
    pub token: Option<String>,
    /// The token's serial number.
    pub serial: Option<String>,
    /// The token's manufacturer.
    pub manufacturer: Option<String>,
    /// The token's model.
    pub model: Option<String>,
    /// The key's label.
    pub object: Option<String>,
    /// The key's identifier.
    pub id: Option<Vec<u8>>,
}

impl fmt::Display for Pkcs11Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Pkcs11Uri {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let path = text.strip_prefix("pkcs11:").ok_or("it does not begin with pkcs11:")?;
        if path.contains('?') {
            return Err(
                "module and PIN have parameters of their own; nothing may follow a question mark".to_owned()
            );
        }
        let mut uri = Self { text: text.to_owned(), ..Self::default() };
        for attribute in path.split(';') {
            let (name, value) =
                attribute.split_once('=').ok_or("its attributes are name=value, separated by semicolons")?;
            let bytes = percent_decoded(value)
                .ok_or_else(|| format!("the value of {name} is not percent-encoded as RFC 7512 says"))?;
            let text = || {
                String::from_utf8(bytes.clone())
                    .map(Some)
                    .map_err(|_| format!("the value of {name} is not UTF-8"))
            };
            let twice = match name {
                "token" => std::mem::replace(&mut uri.token, text()?).is_some(),
                "serial" => std::mem::replace(&mut uri.serial, text()?).is_some(),
                "manufacturer" => std::mem::replace(&mut uri.manufacturer, text()?).is_some(),
                "model" => std::mem::replace(&mut uri.model, text()?).is_some(),
                "object" => std::mem::replace(&mut uri.object, text()?).is_some(),
                "id" => uri.id.replace(bytes).is_some(),
                "type" if bytes == b"private" => false,
                "type" => return Err("its type must be private".to_owned()),
                _ => {
                    return Err(
                        "its attributes may be token, serial, manufacturer, model, object, id and type"
                            .to_owned(),
                    );
                }
            };
            if twice {
                return Err(format!("{name} stands there twice"));
            }
        }
        if uri.token.is_none() && uri.serial.is_none() {
            return Err("it names no token (token or serial)".to_owned());
        }
        if uri.object.is_none() && uri.id.is_none() {
            return Err("it names no key (object or id)".to_owned());
        }
        Ok(uri)
    }
}

fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = if *first == b'%' {
            let (hex, tail) = tail.split_at_checked(2)?;
            bytes.extend(unhex(std::str::from_utf8(hex).ok()?)?);
            tail
        } else {
            bytes.push(*first);
            tail
        };
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc7512_names_a_token_and_a_key() {
        let uri: Pkcs11Uri =
            "pkcs11:token=Alfa%20PEC;serial=0a1b;object=pec%3b2027;id=%01%fF;type=private".parse().unwrap();
        assert_eq!((uri.token.as_deref(), uri.serial.as_deref()), (Some("Alfa PEC"), Some("0a1b")));
        assert_eq!((uri.object.as_deref(), uri.id.as_deref()), (Some("pec;2027"), Some(&[1, 255][..])));
        assert_eq!(
            uri.to_string(),
            "pkcs11:token=Alfa%20PEC;serial=0a1b;object=pec%3b2027;id=%01%fF;type=private"
        );
    }

    #[test]
    fn what_is_wrong_is_named_and_no_pin_is_repeated() {
        for (text, says) in [
            ("/key.pem", "does not begin with pkcs11:"),
            ("pkcs11:", "name=value"),
            ("pkcs11:object=pec", "names no token"),
            ("pkcs11:token=alfa", "names no key"),
            ("pkcs11:token=alfa;object=pec;pin-value=12345", "may be token, serial"),
            ("pkcs11:token=alfa;object=pec?pin-value=12345", "have parameters of their own"),
            ("pkcs11:token=alfa;object=pec;type=public", "must be private"),
            ("pkcs11:token=alfa;token=beta;object=pec", "token stands there twice"),
            ("pkcs11:token=alfa;object=%zz", "percent-encoded"),
            ("pkcs11:token=alfa;object=%1", "percent-encoded"),
        ] {
            let error = text.parse::<Pkcs11Uri>().unwrap_err();
            assert!(error.contains(says) && !error.contains("12345"), "{text}: {error}");
        }
    }
}
