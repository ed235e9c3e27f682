//! `pecctl verify FILE`: is this a PEC message, who signed it, when, and what does it say?
//!
//! Promise: judged by the CAs, revocation lists and directory of the configuration, at the time that the
//! message itself names (what its provider says; nothing proves it). What is not verified is never shown as
//! if it were.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use pec_core::clock::{Clock as _, Moment, SystemClock};
use pec_core::daticert::{Daticert, Destinatario, Tipo};
use pec_core::directory::Directory;
use pec_core::directory::signer::NoSigner;
use pec_core::envelope::{EnvelopeError, claimed_type, contents, signed_parts};
use pec_core::header::Header;
use pec_core::mime::header_end;
use pec_core::smime::signing_time::signed_at;
use pec_core::smime::verify::{NotKnown, SignedBy, TrustedCas, VerifyError};
use pec_host::crl_directory::CrlDirectory;
use pec_host::parameters::Settings;
use pec_host::read;
use pec_program::crls::Crls;
use pec_program::program_rows::ProgramRows;
use serde_json::json;

use crate::status::Status;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The message as it lies in the mailbox, with its header.
    file: PathBuf,

    /// One JSON object.
    #[arg(long)]
    json: bool,
}

/// A message that verifies.
#[derive(Debug)]
struct Verified {
    /// Its type in daticert.xml; `anomalia` for a busta di anomalia, which has none.
    what: String,
    /// As of when it was judged.
    at: Moment,
    /// Who signed it, by the directory.
    provider: String,
    signed_by: SignedBy,
    daticert: Option<Daticert>,
}

/// Why it does not.
#[derive(Debug)]
enum Failed {
    /// It is not what it should be, and why.
    NotVerified(String),
    /// That cannot be known now, and why.
    NotKnown(NotKnown),
}

pub(crate) fn run(config_directory: &Path, arguments: &Arguments) -> anyhow::Result<Status> {
    let settings = Settings::read(config_directory)?;
    let message = std::fs::read(&arguments.file).with_context(|| arguments.file.display().to_string())?;
    let crls = Crls::new(Arc::new(CrlDirectory::new(&settings.crl_directory)), ProgramRows::default());
    let cas = read::trusted_cas(&settings.ca_file)?
        .asking(crls.directory().clone(), settings.crl_too_old)
        .looking_back();
    let directory = read::directory(&settings.directory_file)?;
    let mut judged = judge(message.clone(), &cas, &directory);
    if let Err(Failed::NotKnown(not_known)) = &judged {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting")?;
        runtime.block_on(crls.fetch_wanted(&not_known.wanted, SystemClock.now()));
        judged = judge(message, &cas, &directory);
    }
    println!("{}", if arguments.json { json_of(&judged).to_string() } else { text(&judged) });
    Ok(match judged {
        Ok(_) => Status::Good,
        Err(Failed::NotVerified(_)) => Status::Bad,
        Err(Failed::NotKnown(_)) => Status::NotKnown,
    })
}

fn judge(message: Vec<u8>, cas: &TrustedCas, directory: &Directory) -> Result<Verified, Failed> {
    let no = |why: String| Failed::NotVerified(why);
    let message = with_crlf(message);
    let (end, begins) = header_end(&message).ok_or_else(|| no("it has no header and body".to_owned()))?;
    let header = Header::parse(&message[..end]).map_err(|e| no(e.to_string()))?;
    let body = Bytes::from(message).slice(begins..);
    let parts = signed_parts(&header, &body).map_err(|e| no(e.to_string()))?;
    let is_anomalia = header.text("X-Trasporto").is_some_and(|t| t.eq_ignore_ascii_case("errore"));
    let (what, at, daticert) = match claimed_type(&header) {
        Some(claimed) => {
            let daticert =
                contents(&body, parts.content.clone(), claimed).map_err(|e| no(e.to_string()))?.daticert;
            (claimed.to_string(), daticert.data, Some(daticert))
        }
        None if is_anomalia => {
            if !matches!(
                contents(&body, parts.content.clone(), Tipo::PostaCertificata),
                Err(EnvelopeError::Daticert(0))
            ) {
                return Err(no("X-Trasporto: says busta di anomalia, and it is none".to_owned()));
            }
            // Nothing else in it says when: its Date: is not signed.
            let at = signed_at(&parts.signature)
                .ok_or_else(|| no("the signature does not say when it was made".to_owned()))?;
            ("anomalia".to_owned(), at, None)
        }
        None => {
            return Err(no("neither X-Trasporto: nor X-Ricevuta: says that it is a PEC message".to_owned()));
        }
    };
    let signer = directory.signer(cas, &body[parts.content], &parts.signature, at);
    let (signed_by, provider) = signer.map_err(|no_signer| match no_signer {
        NoSigner::NotBelieved(VerifyError::NotKnown(not_known)) => Failed::NotKnown(not_known),
        NoSigner::NotBelieved(e) => no(format!("{e} (as of {at})")),
        NoSigner::Unknown(SignedBy { common_name, sha1, .. }) => no(format!(
            "the certificate that signed ({common_name}, SHA-1 {sha1}) is not in the directory of \
            providers"
        )),
    })?;
    let provider = provider.name().to_owned();
    match header.addresses("From").as_deref() {
        Ok([from]) if signed_by.addresses.contains(&from.key()) => {
            Ok(Verified { what, at, provider, signed_by, daticert })
        }
        _ => Err(no(format!(
            "From: is not the address in the certificate ({})",
            signed_by.addresses.join(", ")
        ))),
    }
}

/// Mail programs store lines with LF alone; what was signed has CRLF.
fn with_crlf(message: Vec<u8>) -> Vec<u8> {
    if message.contains(&b'\r') {
        return message;
    }
    message
        .split_inclusive(|&b| b == b'\n')
        .flat_map(|line| line.strip_suffix(b"\n").map_or(line.to_vec(), |line| [line, b"\r\n"].concat()))
        .collect()
}

fn text(judged: &Result<Verified, Failed>) -> String {
    let Verified { what, at, provider, signed_by, daticert } = match judged {
        Ok(verified) => verified,
        Err(Failed::NotVerified(why)) => return format!("not verified: {why}"),
        Err(Failed::NotKnown(why)) => return format!("not known: {why}"),
    };
    let mut lines = vec![
        format!("verified: {what}"),
        format!("at              {} {} {}", at.giorno(), at.ora(), at.zona()),
        format!("signed by       {provider} ({}, SHA-1 {})", signed_by.addresses.join(", "), signed_by.sha1),
    ];
    if let Some(daticert) = daticert {
        lines.push(format!("identificativo  {}", daticert.identificativo));
        lines.push(format!("msgid           {}", daticert.msgid.as_deref().unwrap_or("none")));
        lines.push(format!("from            {}", daticert.mittente));
        lines.extend(
            daticert
                .destinatari
                .iter()
                .map(|d| format!("to              {} ({})", d.indirizzo, d.tipo.as_str())),
        );
        lines.push(format!("subject         {}", daticert.oggetto.as_deref().unwrap_or_default()));
        lines.extend(
            daticert
                .consegna
                .iter()
                .chain(&daticert.ricezione)
                .map(|about| format!("about           {about}")),
        );
        lines.extend(daticert.errore_esteso.iter().map(|error| format!("error           {error}")));
    }
    lines.join("\n").chars().map(|c| if c.is_control() && c != '\n' { '?' } else { c }).collect()
}

fn json_of(judged: &Result<Verified, Failed>) -> serde_json::Value {
    let Verified { what, at, provider, signed_by, daticert } = match judged {
        Ok(verified) => verified,
        Err(Failed::NotVerified(why)) => return json!({"verified": false, "known": true, "why": why}),
        Err(Failed::NotKnown(why)) => {
            return json!({"verified": false, "known": false, "why": why.to_string()});
        }
    };
    json!({
        "verified": true,
        "what": what,
        "at": at.to_string(),
        "provider": provider,
        "addresses": signed_by.addresses,
        "common_name": signed_by.common_name,
        "sha1": signed_by.sha1,
        "sha256": signed_by.sha256,
        "daticert": daticert.as_ref().map(|d| json!({
            "identificativo": d.identificativo,
            "msgid": d.msgid,
            "mittente": d.mittente,
            "destinatari": d.destinatari.iter().map(json_of_recipient).collect::<Vec<_>>(),
            "oggetto": d.oggetto,
            "gestore_emittente": d.gestore_emittente,
            "consegna": d.consegna,
            "ricezione": d.ricezione,
            "errore": d.errore.as_str(),
            "errore_esteso": d.errore_esteso,
        })),
    })
}

fn json_of_recipient(recipient: &Destinatario) -> serde_json::Value {
    json!({"indirizzo": recipient.indirizzo, "tipo": recipient.tipo.as_str()})
}

#[cfg(test)]
mod tests {
    use super::*;
    use pec_core::daticert::{Errore, TipoDestinatario, TipoRicevuta};
    use pec_core::header::Field;
    use pec_core::message::Body;
    use pec_core::notices::Issuer;
    use pec_core::notices::anomalia::anomalia;
    use pec_core::notices::busta::busta;
    use pec_core::smime::crl::Places;
    use pec_core::smime::verify::TooOld;
    use pec_test_support::pki::{Keys, NOW, Pki, Revoked, crl_at};

    const ADDRESS: &str = "posta-certificata@gestore.alfa.test";

    fn message(keys: &Keys) -> Vec<u8> {
        let signer = keys.signer(ADDRESS, NOW).unwrap();
        let issuer =
            Issuer { provider_name: "Alfa PEC S.p.A.", service_domain: "gestore.alfa.test", signer: &signer };
        let daticert = Daticert {
            tipo: Tipo::PostaCertificata,
            errore: Errore::Nessuno,
            mittente: "anna@pec.alfa.test".into(),
            destinatari: vec![Destinatario {
                indirizzo: "bruno@pec.beta.test".into(),
                tipo: TipoDestinatario::Certificato,
            }],
            risposte: "anna@pec.alfa.test".into(),
            oggetto: Some("Prova".into()),
            gestore_emittente: "Alfa PEC S.p.A.".into(),
            data: Moment::from_unix(NOW),
            identificativo: "pec.1@gestore.alfa.test".into(),
            msgid: None,
            ricevuta: Some(TipoRicevuta::Completa),
            consegna: None,
            ricezione: vec![],
            errore_esteso: None,
        };
        let header =
            Header::parse(b"From: anna@pec.alfa.test\r\nTo: bruno@pec.beta.test\r\nSubject: Prova\r\n")
                .unwrap();
        let notice = busta(
            issuer,
            &daticert,
            &header,
            Body::from_bytes(b"Ciao\r\n".to_vec()),
            Field::written("Received", "here"),
        )
        .unwrap();
        [notice.header.to_bytes(), b"\r\n".to_vec(), notice.body.into_bytes().to_vec()].concat()
    }

    fn directory(sha1: &str) -> Directory {
        Directory::parse(&format!(
            "dn: o=postacert\n\ndn: providerName=Alfa PEC S.p.A.,o=postacert\nobjectclass: \
            provider\nproviderName: Alfa PEC S.p.A.\n\
             providerCertificateHash: {}\nmailReceipt: ricevute@gestore.alfa.test\nmanagedDomains: \
            pec.alfa.test\n",
            sha1
        ))
        .unwrap()
    }

    #[test]
    fn a_busta_di_anomalia_is_judged_at_the_time_that_is_signed() {
        let files = tempfile::tempdir().unwrap();
        let pki = Pki::new(files.path());
        let keys = pki.issuing.provider(files.path(), "Alfa PEC S.p.A.", ADDRESS, &[]);
        let signer = keys.signer(ADDRESS, NOW).unwrap();
        let issuer =
            Issuer { provider_name: "Alfa PEC S.p.A.", service_domain: "gestore.alfa.test", signer: &signer };
        let original = Header::parse(b"From: carla@posta.test\r\nSubject: Prova\r\n").unwrap();
        let errore = pec_core::notices::anomalia::Errore::new("x", "x");
        let at = Moment::from_unix(NOW);
        let notice = anomalia(
            issuer,
            &original,
            Body::from_bytes(b"Ciao\r\n".to_vec()),
            "carla@posta.test",
            &errore,
            at,
            "seed",
        )
        .unwrap();
        let mut header = notice.header;
        header
            .fields_mut()
            .iter_mut()
            .filter(|f| f.is("Date"))
            .for_each(|f| f.value = b" Thu, 1 Jan 2009 00:00:00 +0100".to_vec());
        let message = [header.to_bytes(), b"\r\n".to_vec(), notice.body.into_bytes().to_vec()].concat();
        let cas = read::trusted_cas(&pki.ca_file()).unwrap().looking_back();
        let verified = judge(message, &cas, &directory(&keys.sha1)).unwrap();
        assert_eq!((verified.what.as_str(), verified.at), ("anomalia", at));
    }

    #[test]
    fn a_message_is_judged_at_the_time_in_it_and_says_who_signed_what() {
        let files = tempfile::tempdir().unwrap();
        let pki = Pki::new(files.path());
        let keys = pki.issuing.provider(
            files.path(),
            "Alfa PEC S.p.A.",
            ADDRESS,
            &[crl_at(&["http://ca.test/crl"])],
        );
        let (message, directory) = (message(&keys), directory(&keys.sha1));
        let crls = Arc::new(CrlDirectory::new(&files.path().join("crl")));
        let cas =
            read::trusted_cas(&pki.ca_file()).unwrap().asking(crls.clone(), TooOld::Wait).looking_back();
        let not_known = judge(message.clone(), &cas, &directory);
        assert!(
            text(&not_known)
                .starts_with("not known: whether the certificate of Posta Certificata is revoked"),
            "{}",
            text(&not_known)
        );
        assert_eq!(json_of(&not_known)["known"], false);

        // Revoked an hour after: it was good when it was sent.
        let place = Places::of(&keys.certificate(), &pki.issuing.certificate).http.remove(0);
        let certificate = keys.certificate();
        let publish = |number, since| {
            let list = Revoked {
                certificates: &[(&certificate, since)],
                number,
                this_update: NOW + 7200,
                ..Revoked::NOBODY
            };
            crls.take(&place, &pki.issuing.crl(&list), Moment::from_unix(NOW + 7200)).unwrap();
        };
        publish(1, NOW + 3600);
        let verified = judge(message.clone(), &cas, &directory);
        let shown = text(&verified);
        for says in [
            "verified: posta-certificata\nat              ",
            &format!("\nsigned by       Alfa PEC S.p.A. ({ADDRESS}, SHA-1 {})\n", keys.sha1),
            "\nidentificativo  pec.1@gestore.alfa.test\n",
            "\nfrom            anna@pec.alfa.test\nto              bruno@pec.beta.test \
            (certificato)\nsubject         Prova",
        ] {
            assert!(shown.contains(says), "{shown}");
        }
        let json = json_of(&verified);
        assert_eq!(
            (json["verified"].as_bool(), json["daticert"]["mittente"].as_str()),
            (Some(true), Some("anna@pec.alfa.test"))
        );
        // As mail programs store it.
        let lf = message.iter().copied().filter(|&b| b != b'\r').collect();
        assert!(judge(lf, &cas, &directory).is_ok());

        let no = |message: Vec<u8>, directory: &Directory| match judge(message, &cas, directory) {
            Err(Failed::NotVerified(why)) => why,
            other => panic!("{other:?}"),
        };
        let replaced = |from: &str, to: &str| {
            String::from_utf8(message.clone()).unwrap().replacen(from, to, 1).into_bytes()
        };
        assert!(no(replaced("Ciao", "Miao"), &directory).starts_with("the signature does not verify"));
        assert!(
            no(replaced(&format!("<{ADDRESS}>"), "<anna@pec.alfa.test>"), &directory)
                .starts_with("From: is not the address")
        );
        assert!(
            no(replaced("X-Trasporto: posta-certificata", "X-Trasporto: errore"), &directory)
                .contains("and it is none")
        );
        assert!(no(b"Subject: x\r\n\r\nCiao\r\n".to_vec(), &directory).contains("sign"));
        let others = super::tests::directory(&"0".repeat(40));
        assert!(no(message.clone(), &others).contains("is not in the directory of providers"));
        publish(2, NOW - 1);
        assert!(no(message.clone(), &directory).contains("was revoked on"));
    }
}
