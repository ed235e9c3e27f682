//! `pecctl key request`: a new key, in a file or on a token, and the request for its certificate (RFC 6109 s.
//! 5.5). `pecctl key log`: the key that signs the register's checkpoints. `pecctl key rows`: a key that
//! authenticates the database's rows.
//!
//! Promise: no key that exists is changed or overwritten.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::X509Req;
use pec_core::identifier::hex;
use pec_core::notices::service_address;
use pec_core::smime::own::{KEY_BITS, fits};
use pec_core::smime::pem::sign;
use pec_core::smime::request::{Subject, request};
use pec_host::files::create;
use pec_host::parameters::{Settings, SigningKey};
use pec_host::read::private_key;
use pec_register::checkpoint::LogKey;
use pec_state::authentic::RowKeys;
use pec_token::{TokenKey, TokenLogKey};

use crate::edited::Edited;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Make a key and print the request for its certificate, which goes to the CA.
    Request(Request),
    /// Make the key that signs the register's checkpoints, where pec_register_key says, and print its public
    /// half.
    Log {
        /// Print the public half of the key that is there.
        #[arg(long)]
        existing: bool,
    },
    /// Print a new key that authenticates the database's rows: a line for pec_row_keys_file, for the milters'
    /// user alone.
    Rows {
        /// Put it into this file of keys instead, before those that are there: it makes what is written from
        /// the next reload on, and what was written under the others is believed as before. Where several
        /// hosts share the database, each must know a key before one of them uses it: print one, put it
        /// behind the others on all hosts, reload, then put it first.
        #[arg(long, value_name = "FILE")]
        add: Option<PathBuf>,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Request {
    /// Where the key is to be: an absolute path, or a pkcs11: URI with token and object.
    key: String,

    /// How long it is to be.
    #[arg(long, default_value_t = 3072, value_parser = clap::value_parser!(u32).range(i64::from(*KEY_BITS.start())..=i64::from(*KEY_BITS.end())))]
    bits: u32,

    /// Ask for a certificate for a key that is there already.
    #[arg(long, conflicts_with = "bits")]
    existing: bool,

    /// ST of the subject, if the CA wants one.
    #[arg(long)]
    state: Option<String>,

    /// L of the subject, if the CA wants one.
    #[arg(long)]
    locality: Option<String>,

    /// CN of the subject.
    #[arg(long, default_value = "Posta Certificata")]
    common_name: String,
}

pub(crate) fn run(config_directory: &Path, verb: &Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Request(arguments) => certificate(&Settings::read(config_directory)?, arguments),
        Verb::Log { existing } => log(&Settings::read(config_directory)?, *existing),
        // Wanted before main.cf is complete, which must name its file.
        Verb::Rows { add } => rows(add.as_deref()),
    }
}

/// The request for a certificate, for a key that is made now or is there.
fn certificate(settings: &Settings, arguments: &Request) -> anyhow::Result<()> {
    let subject = Subject {
        provider_name: &settings.provider_name,
        state: arguments.state.as_deref(),
        locality: arguments.locality.as_deref(),
        common_name: &arguments.common_name,
        address: &service_address(&settings.service_domain),
    };
    let unfit = |why| anyhow::anyhow!("{}: the key {why}", arguments.key);
    let der = match SigningKey::parse("pec_signing_key", &arguments.key)? {
        SigningKey::File(file) => {
            let existing = || private_key(&file).map_err(|why| anyhow::anyhow!("{}: {why}", file.display()));
            let key = if arguments.existing {
                existing()?
            } else {
                make_key(&file, || PKey::from_rsa(Rsa::generate(arguments.bits)?))?
            };
            let public_key = PKey::public_key_from_der(&key.public_key_to_der()?)?;
            fits(&public_key).map_err(unfit)?;
            request(&subject, &public_key, |data| sign(&key, data))?
        }
        SigningKey::Token(uri) => {
            let token = settings.pkcs11.token(&uri)?;
            let mut key = if arguments.existing {
                TokenKey::open(token)?
            } else {
                TokenKey::make(token, arguments.bits)?
            };
            let public_key = key.public_key().clone();
            fits(&public_key).map_err(unfit)?;
            request(&subject, &public_key, |data| key.sign(data))?
        }
    };
    let request = X509Req::from_der(&der)?;
    if !request.verify(&*request.public_key()?)? {
        bail!("{}: what it signs does not verify with its public half", arguments.key);
    }
    print!("{}", String::from_utf8(request.to_pem()?)?);
    Ok(())
}

/// The log key, and its public half as C2SP's tools and witnesses read it.
fn log(settings: &Settings, existing: bool) -> anyhow::Result<()> {
    if !existing {
        match &settings.register_key {
            SigningKey::File(file) => drop(make_key(file, PKey::generate_ed25519)?),
            SigningKey::Token(uri) => drop(TokenLogKey::make(settings.pkcs11.token(uri)?)?),
        }
    }
    println!("{}", LogKey::read(settings)?.public());
    Ok(())
}

/// A key of the rows, printed or put before those of a file.
fn rows(add: Option<&Path>) -> anyhow::Result<()> {
    let mut key = [0; 32];
    openssl::rand::rand_bytes(&mut key)?;
    let line = hex(&key);
    let Some(path) = add else {
        println!("{line}");
        return Ok(());
    };
    let file = Edited::open(path)?;
    // What is none is not made one: the programs would refuse it at their next start.
    RowKeys::read(path)?;
    file.write(&format!("{line}\n{}", file.text), Some(0o600))
}

/// A new file for the owner alone, on disk before anybody asks for a certificate of it.
fn make_key(
    file: &Path,
    make: impl FnOnce() -> Result<PKey<Private>, ErrorStack>,
) -> anyhow::Result<PKey<Private>> {
    let mut made = None;
    // If something lies there, that is said before a key is made.
    let written = create(file, 0o600, |new| {
        let key = make()?;
        new.write_all(&key.private_key_to_pem_pkcs8()?)?;
        made = Some(key);
        Ok(())
    });
    written.with_context(|| file.display().to_string())?;
    made.context("no key was made")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_new_key_of_the_rows_stands_before_those_that_are_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("row.keys");
        let old = format!("# since 2026\n{}\n", "0a".repeat(32));
        fs::write(&path, &old).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        rows(Some(&path)).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let (first, rest) = text.split_once('\n').unwrap();
        assert_eq!((first.len(), rest), (64, old.as_str()));
        assert_eq!(format!("{:?}", RowKeys::read(&path).unwrap()), "2 keys");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        rows(Some(&path)).unwrap();
        let again = fs::read_to_string(&path).unwrap();
        assert!(again.ends_with(&text) && !again.starts_with(first), "each is another one");
    }

    #[test]
    fn a_file_that_has_no_keys_stays_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("main.cf");
        rows(Some(&path)).unwrap_err();
        assert!(!path.exists());
        for text in ["", "relayhost =\n"] {
            fs::write(&path, text).unwrap();
            let error = rows(Some(&path)).unwrap_err().to_string();
            assert!(error.starts_with("pec_row_keys_file = "), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}
