//! One session with a token, and the key in it.
//!
//! Promise: the key is the one that the URI names, alone. A token that is away is told from one that is
//! wrong, and a PIN that it refused is not tried again.

use std::fs;
use std::path::Path;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session as TokenSession, UserType};
use cryptoki::slot::{Slot, TokenInfo};
use cryptoki::types::AuthPin;
use openssl::bn::BigNum;
use openssl::pkey::{Id, PKey};
use openssl::rsa::Rsa;
use openssl::sha::sha256;
use pec_core::smime::pkcs11::Pkcs11Uri;
use pec_host::read::closed_to_others;

/// `DigestInfo` of a SHA-256 hash, up to the hash itself (RFC 8017 s. 9.2, note 1).
const SHA256_DIGEST_INFO: [u8; 19] = [
    0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00,
    0x04, 0x20,
];

/// Why there is no session or no signature; see [`pec_token::wire`].
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The token does not answer.
    Away(String),
    /// Somebody must change something.
    Wrong(String),
    /// The token does not take the PIN.
    PinRefused(String),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match error {
            Error::Pkcs11(code, function) => Self::Away(format!("C_{function:?} says {}", constant(code))),
            other => Self::Away(other.to_string()),
        }
    }
}

/// An open session.
pub(crate) struct Session {
    session: TokenSession,
    key: ObjectHandle,
    public_key: Vec<u8>,
    ed25519: bool,
}

impl Session {
    /// Loads the vendor's library, finds the token, logs in, finds the key or makes it (of so many bits): one
    /// of RSA, or of Ed25519.
    pub(crate) fn open(
        module: &Path,
        pin_file: &Path,
        uri: &Pkcs11Uri,
        make: Option<u32>,
        ed25519: bool,
    ) -> Result<Self, Trouble> {
        let pin = pin(pin_file)?;
        let pkcs11 = Pkcs11::new(module).map_err(|e| {
            Trouble::Wrong(format!("pec_pkcs11_module = {}: cannot be loaded: {e}", module.display()))
        })?;
        pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
        let (slot, info) = token(&pkcs11, uri)?;
        if info.user_pin_locked() {
            return Err(Trouble::PinRefused("the token has locked its user PIN".to_owned()));
        }
        if info.user_pin_final_try() {
            let words = "one more wrong PIN would lock the token, so none is tried; log in once by the \
                vendor's own means, then reload";
            return Err(Trouble::PinRefused(words.to_owned()));
        }
        let session =
            if make.is_some() { pkcs11.open_rw_session(slot)? } else { pkcs11.open_ro_session(slot)? };
        session.login(UserType::User, Some(&pin)).map_err(|error| match error {
            Error::Pkcs11(
                code @ (RvError::PinIncorrect
                | RvError::PinInvalid
                | RvError::PinLenRange
                | RvError::PinExpired
                | RvError::PinLocked),
                _,
            ) => Trouble::PinRefused(format!(
                "the token does not take the PIN in pec_pkcs11_pin_file = {}: {}",
                pin_file.display(),
                constant(code)
            )),
            other => other.into(),
        })?;
        if let Some(bits) = make {
            make_key(&session, uri, bits, ed25519)?;
        }
        let key = key(&session, uri, ed25519)?;
        let public_key =
            if ed25519 { public_ed25519(&session, uri, key)? } else { public_key(&session, key)? };
        Ok(Self { session, key, public_key, ed25519 })
    }

    /// The DER of the key's public half.
    pub(crate) fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// Ed25519 (RFC 8032), or RSASSA-PKCS1-v1_5 with SHA-256. The hash of the latter is made here, and the
    /// mechanism is the one that OpenSSL's and OpenSSH's bridges to tokens use: the one that works with every
    /// vendor.
    pub(crate) fn sign(&self, data: &[u8]) -> Result<Vec<u8>, Trouble> {
        if self.ed25519 {
            return Ok(self.session.sign(
                &Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure)),
                self.key,
                data,
            )?);
        }
        let digest_info = [&SHA256_DIGEST_INFO[..], &sha256(data)].concat();
        Ok(self.session.sign(&Mechanism::RsaPkcs, self.key, &digest_info)?)
    }
}

fn pin(file: &Path) -> Result<AuthPin, Trouble> {
    let wrong = |why: String| Trouble::Wrong(format!("pec_pkcs11_pin_file = {}: {why}", file.display()));
    let text = fs::read_to_string(file).map_err(|e| wrong(e.to_string()))?;
    closed_to_others(file).map_err(wrong)?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(AuthPin::from(line)),
        _ => Err(wrong("is empty".to_owned())),
    }
}

/// The one token that the URI names.
fn token(pkcs11: &Pkcs11, uri: &Pkcs11Uri) -> Result<(Slot, TokenInfo), Trouble> {
    let mut present = Vec::new();
    let mut found = Vec::new();
    for slot in pkcs11.get_slots_with_initialized_token()? {
        let info = pkcs11.get_token_info(slot)?;
        let is = |wanted: &Option<String>, value: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted == value.trim_end())
        };
        if is(&uri.token, info.label())
            && is(&uri.serial, info.serial_number())
            && is(&uri.manufacturer, info.manufacturer_id())
            && is(&uri.model, info.model())
        {
            found.push((slot, info));
        } else {
            present.push(format!(
                "{:?} (serial {})",
                info.label().trim_end(),
                info.serial_number().trim_end()
            ));
        }
    }
    match (found.pop(), found.len()) {
        (Some(found), 0) => Ok(found),
        (Some(_), others) => {
            Err(Trouble::Wrong(format!("{} tokens are called so; the URI must name one", others + 1)))
        }
        (None, _) if present.is_empty() => Err(Trouble::Away("there is no token".to_owned())),
        (None, _) => Err(Trouble::Away(format!("this token is not there; there are {}", present.join(", ")))),
    }
}

/// What the URI's key is looked for by.
fn template(uri: &Pkcs11Uri, class: ObjectClass, ed25519: bool) -> Vec<Attribute> {
    let mut template = vec![
        Attribute::Class(class),
        Attribute::KeyType(if ed25519 { KeyType::EC_EDWARDS } else { KeyType::RSA }),
    ];
    template.extend(uri.object.as_ref().map(|label| Attribute::Label(label.clone().into_bytes())));
    template.extend(uri.id.clone().map(Attribute::Id));
    template
}

/// The one private key that the URI names.
fn key(session: &TokenSession, uri: &Pkcs11Uri, ed25519: bool) -> Result<ObjectHandle, Trouble> {
    let kind = if ed25519 { "Ed25519" } else { "RSA" };
    let template = template(uri, ObjectClass::PRIVATE_KEY, ed25519);
    match session.find_objects(&template)?[..] {
        [key] => Ok(key),
        [] => Err(Trouble::Wrong(format!("the token holds no {kind} private key of this name"))),
        ref several => Err(Trouble::Wrong(format!(
            "the token holds {} {kind} private keys of this name; the URI must name one",
            several.len()
        ))),
    }
}

/// A key pair whose private half cannot leave the token and can do nothing but sign.
fn make_key(session: &TokenSession, uri: &Pkcs11Uri, bits: u32, ed25519: bool) -> Result<(), Trouble> {
    let Some(label) = &uri.object else {
        return Err(Trouble::Wrong("a key that is to be made needs a name (object)".to_owned()));
    };
    let label = Attribute::Label(label.clone().into_bytes());
    let id = match &uri.id {
        Some(id) => id.clone(),
        None => {
            let mut id = vec![0; 8];
            openssl::rand::rand_bytes(&mut id).map_err(|e| Trouble::Wrong(e.to_string()))?;
            id
        }
    };
    let id = Attribute::Id(id);
    // Also half a pair, or a key of another kind: whoever looks for it by name must find one.
    for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
        for name in [&label, &id] {
            if !session.find_objects(&[Attribute::Class(class), name.clone()])?.is_empty() {
                return Err(Trouble::Wrong(
                    "the token has a key of this name or id already, which is not touched".to_owned(),
                ));
            }
        }
    }
    let public = |kind: &[Attribute]| {
        [&[Attribute::Token(true), Attribute::Verify(true), label.clone(), id.clone()], kind].concat()
    };
    let private = [
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
        Attribute::Decrypt(false),
        Attribute::Unwrap(false),
        label.clone(),
        id.clone(),
    ];
    if !ed25519 {
        let size = [Attribute::ModulusBits(u64::from(bits).into()), Attribute::PublicExponent(vec![1, 0, 1])];
        session.generate_key_pair(&Mechanism::RsaPkcsKeyPairGen, &public(&size), &private)?;
        return Ok(());
    }
    // The curve's number (RFC 8410), or, for tokens of an older mind, its name (PKCS#11 3.0).
    let curve = |parameters: &[u8]| public(&[Attribute::EcParams(parameters.to_vec())]);
    session
        .generate_key_pair(&Mechanism::EccEdwardsKeyPairGen, &curve(b"\x06\x03\x2b\x65\x70"), &private)
        .or_else(|_| {
            session.generate_key_pair(
                &Mechanism::EccEdwardsKeyPairGen,
                &curve(b"\x13\x0cedwards25519"),
                &private,
            )
        })?;
    Ok(())
}

/// The point stands in the public object beside, in an OCTET STRING or, with some tokens, as it is.
fn public_ed25519(session: &TokenSession, uri: &Pkcs11Uri, key: ObjectHandle) -> Result<Vec<u8>, Trouble> {
    let public = session.find_objects(&template(uri, ObjectClass::PUBLIC_KEY, true))?;
    for object in public.into_iter().chain([key]) {
        for attribute in session.get_attributes(object, &[AttributeType::EcPoint])? {
            let Attribute::EcPoint(point) = attribute else { continue };
            let point = point.strip_prefix(&[0x04, 0x20]).filter(|point| point.len() == 32).unwrap_or(&point);
            if let Ok(key) = PKey::public_key_from_raw_bytes(point, Id::ED25519) {
                return key.public_key_to_der().map_err(|e| Trouble::Wrong(e.to_string()));
            }
        }
    }
    Err(Trouble::Wrong(
        "the token does not tell the key's public half: its public object is missing, or is of another \
        curve"
            .to_owned(),
    ))
}

fn public_key(session: &TokenSession, key: ObjectHandle) -> Result<Vec<u8>, Trouble> {
    let unreadable = || Trouble::Wrong("the token does not tell the key's modulus and exponent".to_owned());
    let (mut modulus, mut exponent) = (None, None);
    for attribute in session.get_attributes(key, &[AttributeType::Modulus, AttributeType::PublicExponent])? {
        match attribute {
            Attribute::Modulus(bytes) => modulus = BigNum::from_slice(&bytes).ok(),
            Attribute::PublicExponent(bytes) => exponent = BigNum::from_slice(&bytes).ok(),
            _ => {}
        }
    }
    let key = Rsa::from_public_components(modulus.ok_or_else(unreadable)?, exponent.ok_or_else(unreadable)?);
    key.and_then(|key| key.public_key_to_der()).map_err(|_| unreadable())
}

/// A return code as the PKCS#11 specification and the vendors' manuals name it.
fn constant(code: RvError) -> String {
    if let RvError::VendorDefined(number) | RvError::UnknownErrorCode(number) = code {
        return format!("{number:#x}");
    }
    let mut name = "CKR".to_owned();
    for c in format!("{code:?}").chars() {
        if c.is_ascii_uppercase() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}
