//! Signed messages: made, judged by openssl, read back, and broken.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use bytes::Bytes;
use pec_core::clock::Moment;
use pec_core::daticert::{Daticert, Destinatario, Errore, Tipo, TipoDestinatario, TipoRicevuta};
use pec_core::envelope::{contents, signed_parts};
use pec_core::header::{Field, Header};
use pec_core::message::Body;
use pec_core::notices::accettazione::accettazione;
use pec_core::notices::busta::busta;
use pec_core::notices::mancata_consegna::{Causa, mancata_consegna, virus_status};
use pec_core::notices::preavviso::{Termine, preavviso};
use pec_core::notices::rilevazione_virus::rilevazione_virus;
use pec_core::notices::{Issuer, Notice};
use pec_core::smime::pem::PemSigner;
use pec_core::smime::verify::{TrustedCas, VerifyError};
use pec_host::read;
use pec_test_support::judges::{openssl_verify, xmllint_valid};
use pec_test_support::pki::{Keys, NOW, Pki};
use proptest::prelude::*;
use tempfile::TempDir;

const ADDRESS: &str = "posta-certificata@gestore.alfa.test";

struct Alfa {
    directory: TempDir,
    pki: Pki,
    signer: PemSigner,
    cas: TrustedCas,
}

impl Alfa {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::new(directory.path());
        let keys = pki.provider("Alfa PEC S.p.A.", ADDRESS);
        let signer = keys.signer(ADDRESS, NOW).unwrap();
        let cas = read::trusted_cas(&pki.ca_file()).unwrap();
        Self { directory, pki, signer, cas }
    }

    fn issuer(&self) -> Issuer<'_> {
        Issuer { provider_name: "Alfa PEC S.p.A.", service_domain: "gestore.alfa.test", signer: &self.signer }
    }

    fn envelope(&self, header: &[u8], body: &[u8]) -> Notice {
        let header = Header::parse(header).unwrap();
        busta(
            self.issuer(),
            &daticert(),
            &header,
            Body::from_bytes(body.to_vec()),
            Field::written("Received", "here"),
        )
        .unwrap()
    }

    fn verify(&self, header: &Header, body: &[u8]) -> Result<(), VerifyError> {
        let parts = signed_parts(header, body).map_err(|_| VerifyError::NotASignature)?;
        let signed_by = self.cas.verify(&body[parts.content], &parts.signature, Moment::from_unix(NOW))?;
        assert_eq!(signed_by.addresses, [ADDRESS]);
        Ok(())
    }
}

fn daticert() -> Daticert {
    Daticert {
        tipo: Tipo::PostaCertificata,
        errore: Errore::Nessuno,
        mittente: "anna@pec.alfa.test".into(),
        destinatari: vec![Destinatario {
            indirizzo: "bruno@pec.beta.test".into(),
            tipo: TipoDestinatario::Certificato,
        }],
        risposte: "anna@pec.alfa.test".into(),
        oggetto: Some("Perché «così» — 日本 <b>\"x\" & y</b>".into()),
        gestore_emittente: "Alfa PEC S.p.A.".into(),
        data: Moment::from_unix(NOW),
        identificativo: "pec.20261118120640.0123456789abcdef0123@gestore.alfa.test".into(),
        msgid: Some("<1@client.test>".into()),
        ricevuta: Some(TipoRicevuta::Completa),
        consegna: None,
        ricezione: vec![],
        errore_esteso: None,
    }
}

fn bytes_of(notice: &Notice) -> Vec<u8> {
    [notice.header.to_bytes(), b"\r\n".to_vec(), notice.body.clone().into_bytes().to_vec()].concat()
}

#[test]
fn rfc6109_2_1_the_signature_is_good_for_openssl_and_for_us() {
    let alfa = Alfa::new();
    let notice = alfa.envelope(b"From: anna@pec.alfa.test\r\nTo: bruno@pec.beta.test\r\n", b"Ciao\r\n");
    openssl_verify(&bytes_of(&notice), &alfa.pki.ca_file()).unwrap();
    alfa.verify(&notice.header, &notice.body.clone().into_bytes()).unwrap();
    let missing = alfa.directory.path().join("other.pem");
    fs::write(&missing, fs::read(alfa.pki.provider("Other", ADDRESS).certificate_file).unwrap()).unwrap();
    assert!(openssl_verify(&bytes_of(&notice), &missing).is_err(), "another CA does not do");
}

/// A detached signature by openssl over `content`, with Alfa's key.
fn openssl_signs(alfa: &Alfa, keys: &Keys, content: &[u8], options: &[&str]) -> Vec<u8> {
    let content_file = alfa.directory.path().join("to-sign");
    fs::write(&content_file, content).unwrap();
    let ca_file = alfa.directory.path().join("issuing.pem");
    fs::write(&ca_file, alfa.pki.issuing().0.to_pem().unwrap()).unwrap();
    let made = std::process::Command::new("openssl")
        .args(["cms", "-sign", "-binary", "-outform", "DER", "-in"])
        .arg(&content_file)
        .arg("-signer")
        .arg(&keys.certificate_file)
        .arg("-certfile")
        .arg(&ca_file)
        .arg("-inkey")
        .arg(&keys.key_file)
        .args(options)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    made.stdout
}

#[test]
fn rfc5652_a_signer_named_by_its_key_rsa_pss_and_ber_are_read() {
    let alfa = Alfa::new();
    let keys = alfa.pki.provider("Alfa PEC S.p.A.", ADDRESS);
    for options in [
        &["-md", "sha256"][..],
        &["-keyid"],
        &["-keyopt", "rsa_padding_mode:pss"],
        &["-keyid", "-md", "sha512", "-keyopt", "rsa_padding_mode:pss"],
        &["-md", "sha1"],
        &["-noattr"],
        &["-stream", "-indef"],
    ] {
        let signature = openssl_signs(&alfa, &keys, b"content", options);
        let signed_by = alfa.cas.verify(b"content", &signature, Moment::from_unix(NOW)).unwrap();
        assert_eq!(signed_by.sha1, keys.sha1.to_ascii_lowercase(), "{options:?}");
        assert!(alfa.cas.verify(b"other", &signature, Moment::from_unix(NOW)).is_err());
    }
}

#[test]
fn a_signature_with_md5_does_not_verify_and_says_why() {
    let alfa = Alfa::new();
    let keys = alfa.pki.provider("Alfa PEC S.p.A.", ADDRESS);
    let signature = openssl_signs(&alfa, &keys, b"content", &["-md", "md5"]);
    let error = alfa.cas.verify(b"content", &signature, Moment::from_unix(NOW)).unwrap_err();
    assert!(error.to_string().contains("digest algorithm is MD5; allowed are SHA-1"), "{error}");
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let alfa = Alfa::new();
    let notice = || accettazione(alfa.issuer(), &daticert(), "pec.1@gestore.alfa.test").unwrap();
    assert_eq!(bytes_of(&notice()), bytes_of(&notice()));
    let other = accettazione(alfa.issuer(), &daticert(), "pec.2@gestore.alfa.test").unwrap();
    assert_ne!(bytes_of(&notice()), bytes_of(&other));
}

#[test]
fn rfc6109_4_3_1_texts_are_latin_1_and_html_says_the_same() {
    let alfa = Alfa::new();
    let causa = Causa::from_status("5.1.1");
    let notice = mancata_consegna(
        alfa.issuer(),
        &daticert(),
        "bruno@pec.beta.test",
        &causa,
        Moment::from_unix(NOW),
        "pec.1@gestore.alfa.test",
    )
    .unwrap();
    let body = String::from_utf8(notice.body.clone().into_bytes().to_vec()).unwrap();
    assert!(body.is_ascii());
    let (plain, html) = body.split_once("text/html").unwrap();
    assert!(plain.contains("Perch=E9 =ABcos=EC=BB ? ??"), "{plain}");
    assert!(html.contains("&#26085;") && !html.contains("<b>"), "{html}");
    assert!(
        plain.find("Avviso di mancata consegna").unwrap()
            < plain.find("Non delivery PEC notification").unwrap()
    );
    assert!(!notice.header.subject().unwrap().contains('?'), "the subject keeps every character");
    xmllint_valid(&daticert().to_xml()).unwrap();
}

/// A notice's header and daticert.xml, once openssl and the DTD have nothing to say against them.
fn judged(alfa: &Alfa, notice: &Notice, tipo: Tipo) -> (Header, Daticert) {
    openssl_verify(&bytes_of(notice), &alfa.pki.ca_file()).unwrap();
    let body = notice.body.clone().into_bytes();
    let daticert =
        contents(&body, signed_parts(&notice.header, &body).unwrap().content, tipo).unwrap().daticert;
    xmllint_valid(&daticert.to_xml()).unwrap();
    (notice.header.clone(), daticert)
}

#[test]
fn rfc6109_3_2_3_avviso_di_rilevazione_virus() {
    let alfa = Alfa::new();
    let (to, virus, at) = ("ricevute@gestore.beta.test", "Eicar-Test-Signature", Moment::from_unix(NOW));
    let notice = rilevazione_virus(
        alfa.issuer(),
        &daticert(),
        to,
        "bruno@pec.beta.test",
        virus,
        at,
        "pec.1@gestore.alfa.test",
    )
    .unwrap();
    let (header, daticert) = judged(&alfa, &notice, Tipo::RilevazioneVirus);
    for (field, value) in [
        ("X-Ricevuta", "rilevazione-virus"),
        ("X-Mittente", "anna@pec.alfa.test"),
        ("To", to),
        ("X-Riferimento-Message-ID", "<1@client.test>"),
    ] {
        assert_eq!(header.text(field).as_deref(), Some(value));
    }
    assert!(header.subject().unwrap().starts_with("PROBLEMA DI SICUREZZA: "));
    assert_eq!((daticert.errore, daticert.consegna.as_deref()), (Errore::Virus, Some("bruno@pec.beta.test")));
    assert_eq!(daticert.errore_esteso.as_deref(), Some(virus));
}

#[test]
fn rfc6109_3_2_4_avviso_di_mancata_consegna_per_virus() {
    let alfa = Alfa::new();
    let causa = Causa::from_status(&virus_status("Eicar-Test-Signature"));
    let notice = mancata_consegna(
        alfa.issuer(),
        &daticert(),
        "bruno@pec.beta.test",
        &causa,
        Moment::from_unix(NOW),
        "pec.1@gestore.alfa.test",
    )
    .unwrap();
    let (header, daticert) = judged(&alfa, &notice, Tipo::ErroreConsegna);
    for (field, value) in
        [("X-Ricevuta", "errore-consegna"), ("X-VerificaSicurezza", "errore"), ("To", "anna@pec.alfa.test")]
    {
        assert_eq!(header.text(field).as_deref(), Some(value));
    }
    assert!(header.subject().unwrap().starts_with("AVVISO DI MANCATA CONSEGNA PER VIRUS: "));
    assert_eq!((daticert.errore, daticert.consegna.as_deref()), (Errore::Virus, Some("bruno@pec.beta.test")));
    assert_eq!(
        daticert.errore_esteso.as_deref(),
        Some("5.5.1 - Alfa PEC S.p.A. - presenza di un virus nel messaggio")
    );
    let body = String::from_utf8(notice.body.into_bytes().to_vec()).unwrap();
    assert!(body.contains("problema di sicurezza Eicar-Test-Signature."), "{body}");
}

#[test]
fn rfc6109_3_1_6_the_two_notices_of_a_timeout_differ_in_their_text_and_in_errore_esteso_alone() {
    let alfa = Alfa::new();
    let make = |termine| {
        preavviso(
            alfa.issuer(),
            &daticert(),
            "bruno@pec.beta.test",
            termine,
            Moment::from_unix(NOW),
            "pec.1@gestore.alfa.test",
        )
        .unwrap()
    };
    let (dodici, ventiquattro) = (make(Termine::DodiciOre), make(Termine::VentiquattroOre));
    assert_eq!(dodici.header.to_bytes(), ventiquattro.header.to_bytes());
    let subject = dodici.header.subject().unwrap();
    assert!(
        subject.starts_with("AVVISO DI MANCATA CONSEGNA PER SUP. TEMPO MASSIMO: Perch\u{e9}"),
        "{subject}"
    );
    for (notice, italiano, inglese) in [
        (
            &dodici,
            "nelle prime dodici ore dal suo invio",
            "within the first 12 hours following its \
            dispatch",
        ),
        (&ventiquattro, "nelle ventiquattro ore successive al suo invio", "within 24 hours of its dispatch"),
    ] {
        let body = notice.body.clone().into_bytes();
        alfa.verify(&notice.header, &body).unwrap();
        let contents = contents(
            &body,
            signed_parts(&notice.header, &body).unwrap().content,
            Tipo::PreavvisoErroreConsegna,
        )
        .unwrap();
        xmllint_valid(&contents.daticert.to_xml()).unwrap();
        assert_eq!(
            (contents.postacert, contents.daticert.consegna.as_deref()),
            (None, Some("bruno@pec.beta.test"))
        );
        let text = String::from_utf8(body.to_vec()).unwrap().replace("=\r\n", "");
        assert!(text.find(italiano).unwrap() < text.find(inglese).unwrap(), "{text}");
    }
}

#[test]
fn rfc6109_5_5_keys_and_certificates_that_do_not_do_are_named() {
    let alfa = Alfa::new();
    let keys = alfa.pki.provider("Alfa PEC S.p.A.", ADDRESS);
    let other = alfa.pki.provider("Alfa PEC S.p.A.", "posta-certificata@gestore.beta.test");
    let empty = alfa.directory.path().join("empty.pem");
    fs::write(&empty, "").unwrap();
    let absent = alfa.directory.path().join("absent.pem");
    let stranger = alfa.pki.provider("Alfa PEC Srl", ADDRESS);
    let small = alfa.pki.provider_of_bits("Small", ADDRESS, 1024);
    let open = alfa.pki.provider("Alfa PEC S.p.A.", ADDRESS);
    fs::set_permissions(&open.key_file, fs::Permissions::from_mode(0o604)).unwrap();
    let year = 366 * 86_400;
    for (certificate, key, now, says) in [
        (&keys.certificate_file, &other.key_file, NOW, "is not the key of the certificate in"),
        (&small.certificate_file, &small.key_file, NOW, "has 1024 bits; RSA of 2048 to 4096 bits is needed"),
        (&open.certificate_file, &open.key_file, NOW, "every user of this machine may open it (mode 604)"),
        (&keys.certificate_file, &absent, NOW, "No such file"),
        (&keys.certificate_file, &empty, NOW, "no readable PEM private key"),
        (&absent, &keys.key_file, NOW, "No such file"),
        (&empty, &keys.key_file, NOW, "holds no certificate"),
        (&other.certificate_file, &other.key_file, NOW, "posta-certificata@gestore.alfa.test is needed"),
        (
            &stranger.certificate_file,
            &stranger.key_file,
            NOW,
            "neither CN nor O of its subject is the provider's name (Alfa PEC S.p.A.), but",
        ),
        (&keys.certificate_file, &keys.key_file, NOW + year, "has expired"),
        (&keys.certificate_file, &keys.key_file, NOW - year, "not valid before"),
    ] {
        let error = Keys { certificate_file: certificate.clone(), key_file: key.clone(), ..open.clone() }
            .signer(ADDRESS, now)
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains(says) && error.starts_with("pec_") && !error.contains('\n'), "{error}");
    }
}

#[test]
fn whatever_is_wrapped_comes_out_again() {
    let alfa = Alfa::new();
    proptest!(ProptestConfig::with_cases(100), |(lines in prop::collection::vec("[ -~]{0,80}", 0..20), dashes in "-{0,6}=?_?(PEC_mixed_)?[a-f0-9]{0,6}")| {
        let mut body = lines.join("\r\n").into_bytes();
        body.extend_from_slice(format!("\r\n{dashes}\r\n--{dashes}--\r\n").as_bytes());
        let notice = alfa.envelope(b"X:a\r\nX: a \r\n\tb\r\n", &body);
        let bytes: Bytes = notice.body.clone().into_bytes();
        let parts = signed_parts(&notice.header, &bytes).unwrap();
        let postacert = contents(&bytes, parts.content, Tipo::PostaCertificata).unwrap().postacert.unwrap();
        prop_assert!(postacert.ends_with(&[b"\r\n\r\n", &body[..]].concat()));
        prop_assert!(postacert.windows(16).any(|w| w == b"X:a\r\nX: a \r\n\tb\r\n"));
        prop_assert_eq!(alfa.verify(&notice.header, &bytes), Ok(()));
    });
}

#[test]
fn any_change_of_a_signed_bit_shows() {
    let alfa = Alfa::new();
    let notice = alfa.envelope(b"From: a@b\r\n", b"Ciao\r\n");
    let good = notice.body.clone().into_bytes();
    let content = signed_parts(&notice.header, &good).unwrap().content;
    proptest!(ProptestConfig::with_cases(300), |(index in content, bit in 0..8_u8)| {
        let mut bytes = good.to_vec();
        bytes[index] ^= 1 << bit;
        prop_assert!(alfa.verify(&notice.header, &bytes).is_err());
    });
}
