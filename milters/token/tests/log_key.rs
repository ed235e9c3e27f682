//! The register's key on a token: SoftHSM2, Ed25519 (CKM_EDDSA).
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use pec_core::clock::Moment;
use pec_host::parameters::SigningKey;
use pec_register::checkpoint::{Checkpoint, LogKey};
use pec_register::tree::EMPTY;
use pec_test_support::network::Network;
use pec_test_support::pki::NOW;
use pec_test_support::softhsm::{SoftHsm, reached};
use pec_token::{TokenKey, TokenLogKey};

const URI: &str = "pkcs11:token=alfa;object=log";

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pec-token"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_is_signed_on_the_token() {
    let mut network = Network::new().await;
    let hsm = SoftHsm::new(network.directory.path());
    hsm.new_token("alfa");
    let settings = &mut network.alfa.settings;
    settings.pkcs11 = reached(hsm.token(program(), URI));
    settings.register_key = SigningKey::Token(URI.parse().unwrap());
    let error = LogKey::read(settings).err().unwrap().to_string();
    assert_eq!(
        error,
        "pec_register_key = pkcs11:token=alfa;object=log: the token holds no Ed25519 private key of this name"
    );
    let made = TokenLogKey::make(hsm.token(program(), URI)).unwrap().public_key().unwrap();

    let key = LogKey::read(settings).unwrap();
    let text = key.checkpoint(0, EMPTY, Moment::from_unix(NOW)).unwrap();
    assert_eq!(Checkpoint::open(&text, &key.public()).unwrap().size, 0);
    assert_eq!(TokenLogKey::open(hsm.token(program(), URI)).unwrap().public_key().unwrap(), made);
    // Neither is it made a second time, nor does it sign mail.
    let again = TokenLogKey::make(hsm.token(program(), URI)).err().unwrap().to_string();
    assert!(
        again.ends_with("the token has a key of this name or id already, which is not touched"),
        "{again}"
    );
    assert!(
        TokenKey::open(hsm.token(program(), URI))
            .err()
            .unwrap()
            .to_string()
            .contains("holds no RSA private key of this name")
    );
}

#[test]
fn a_session_that_is_gone_is_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let hsm = SoftHsm::new(directory.path());
    hsm.new_token("alfa");
    let key = TokenLogKey::make(hsm.token(program(), URI)).unwrap();
    let first = key.sign(b"checkpoint").unwrap();
    // The token is pulled, and put back.
    let (tokens, away) = (hsm.tokens(), directory.path().join("away"));
    fs::rename(&tokens, &away).unwrap();
    let gone = key.sign(b"checkpoint");
    fs::rename(&away, &tokens).unwrap();
    assert_eq!(key.sign(b"checkpoint").unwrap(), first);
    // What SoftHSM has read it may go on with; if not, it was said.
    assert!(gone.is_err() || gone.unwrap() == first);
}

#[test]
fn a_pin_that_was_refused_is_not_tried_again_before_its_file_changes() {
    let directory = tempfile::tempdir().unwrap();
    let hsm = SoftHsm::new(directory.path());
    hsm.new_token("alfa");
    TokenLogKey::make(hsm.token(program(), URI)).unwrap();
    let right = fs::read_to_string(hsm.pin_file()).unwrap();
    hsm.set_pin("wrong");
    let error = || TokenLogKey::open(hsm.token(program(), URI)).err().unwrap().to_string();
    let first = error();
    assert!(first.contains("the token does not take the PIN"), "{first}");
    // The program is not even started.
    let mut token = hsm.token(program(), URI);
    token.program = directory.path().join("nothing");
    assert_eq!(TokenLogKey::open(token).err().unwrap().to_string(), first);
    hsm.set_pin(right.trim_end());
    TokenLogKey::open(hsm.token(program(), URI)).unwrap();
}
