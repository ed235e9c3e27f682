//! Timestamps: a real TSA (`openssl ts`), one that lies, and `openssl ts -verify` as the judge of what is
//! kept.

use std::fs;

use pec_register::tsa::{Tsa, TsaCas, TsaError};
use pec_test_support::judges::openssl_ts_verify;
use pec_test_support::pki::Ca;
use pec_test_support::tsa::{Manner, Tsa as Server};

const CONTENT: &[u8] = b"the signature of a checkpoint";

#[allow(clippy::unwrap_used)]
fn bad(server: &Server, manner: Manner) -> String {
    server.answers(manner);
    Tsa::new(&server.settings()).unwrap().stamp(CONTENT).unwrap_err().to_string()
}

#[test]
fn a_timestamp_is_kept_as_it_came_and_verifies_without_a_connection() {
    let server = Server::start();
    let (response, timestamp) = Tsa::new(&server.settings()).unwrap().stamp(CONTENT).unwrap();
    assert_eq!(timestamp.by, "Prova TSA");
    let ca_file = tempfile::NamedTempFile::new().unwrap();
    fs::copy(server.ca_file(), ca_file.path()).unwrap();
    drop(server);
    let cas = TsaCas::read(ca_file.path()).unwrap();
    assert_eq!(cas.verify(CONTENT, &response), Ok(timestamp));
    assert_eq!(openssl_ts_verify(CONTENT, &response, ca_file.path()), Ok(()));
    assert_eq!(
        cas.verify(b"something else", &response),
        Err(TsaError::Bad("it is over other bytes".to_owned()))
    );
}

#[test]
fn rfc3161_what_a_lying_tsa_says_is_not_believed() {
    let server = Server::start();
    for (manner, says) in [
        (Manner::WrongImprint, "it is over other bytes"),
        (Manner::OtherNonce, "it answers another question than ours (nonce)"),
        (Manner::Garbage, "it is no TimeStampResp"),
    ] {
        assert_eq!(bad(&server, manner), format!("the timestamp is not good: {says}"));
    }
    // OpenSSL's versions have different words.
    let error = bad(&server, Manner::OtherPurpose);
    assert!(
        error.contains("the TSA's certificate: uns") && error.ends_with("certificate purpose (Prova TSA)"),
        "{error}"
    );
    assert!(bad(&server, Manner::Rejection).starts_with("the TSA gives no timestamp: status 2"));
}

#[test]
fn a_tsa_of_another_ca_is_not_believed() {
    let (server, other) = (Server::start(), Ca::root("Another Root"));
    let ca_file = tempfile::NamedTempFile::new().unwrap();
    fs::write(ca_file.path(), other.certificate.to_pem().unwrap()).unwrap();
    let mut settings = server.settings();
    settings.ca_file = ca_file.path().to_owned();
    let error = Tsa::new(&settings).unwrap().stamp(CONTENT).unwrap_err().to_string();
    assert!(
        error.starts_with("the timestamp is not good: the TSA's certificate: ")
            && error.ends_with("(Prova TSA)"),
        "{error}"
    );
}

#[test]
fn a_tsa_that_is_away_is_named() {
    let server = Server::start();
    let url = server.settings().url;
    for manner in [Manner::Silence, Manner::Error] {
        let error = bad(&server, manner);
        assert!(error.starts_with(&format!("the TSA {url} does not answer: ")), "{error}");
    }
    assert_eq!(server.asked(), 2);
    let settings = server.settings();
    let tsa = Tsa::new(&settings).unwrap();
    drop(server);
    assert!(matches!(tsa.stamp(CONTENT), Err(TsaError::Away { .. })));
}

#[test]
fn no_byte_of_a_timestamp_can_be_changed_so_that_it_says_something_else() {
    let server = Server::start();
    let (response, timestamp) = Tsa::new(&server.settings()).unwrap().stamp(CONTENT).unwrap();
    let cas = TsaCas::read(&server.ca_file()).unwrap();
    for at in 0..response.len() {
        let mut changed = response.clone();
        changed[at] ^= 1;
        // Some bytes say nothing (whether the answer was granted with changes, a parameter that may be left
        // out): those may differ.
        assert!(
            cas.verify(CONTENT, &changed).is_err() || cas.verify(CONTENT, &changed) == Ok(timestamp.clone()),
            "byte {at}"
        );
    }
}
