//! `pecctl infected`: the store of messages with viruses, which nothing else opens.
//!
//! Promise: every look into it is a row of the retained log (`lettura-infetti`) before anything is shown.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use openssl::cms::CmsContentInfo;
use openssl::pkey::PKey;
use openssl::x509::X509;
use pec_core::daticert::Daticert;
use pec_host::parameters::Settings;
use pec_state::database::Database;
use pec_state::event::Event;
use pec_state::store::Store;
use serde_json::json;

use crate::log::reading;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Print what is kept: id, bytes, PEC identifier, sender. What was found in it: pecctl log IDENTIFIER.
    List {
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Print a message as it came, virus and all.
    Show {
        /// As `pecctl infected list` and the milters' log name it.
        id: String,
        /// The auditor's private key (PEM), to the certificate of `pec_infected_certificate_file`.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
}

pub(crate) fn run(config_directory: &Path, verb: &Verb) -> anyhow::Result<()> {
    let settings = Settings::read(config_directory)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting")?;
    let shown = runtime.block_on(async {
        match verb {
            Verb::List { json } => anyhow::Ok(list(&settings, *json).await?.into_bytes()),
            Verb::Show { id, key } => show(&settings, id, key).await,
        }
    })?;
    std::io::stdout().write_all(&shown).context("writing")
}

async fn list(settings: &Settings, json: bool) -> anyhow::Result<String> {
    reading::write(settings, Event::LetturaInfetti, "pecctl infected list").await?;
    let database = Database::connect(settings, "pecctl").await?;
    let mut out = String::new();
    for (id, bytes) in kept(&settings.infected_store)? {
        // A crash between file and row leaves a file without a row; the message came again.
        let daticert = match database.custody(&id).await? {
            Some(custody) => Some(custody.daticert.clone()),
            None => database.not_accepted(&id).await?.map(|refused| refused.daticert.clone()),
        };
        let about = daticert.and_then(|xml| Daticert::parse(xml.as_bytes()).ok());
        let (identificativo, mittente) = about.map(|d| (d.identificativo, d.mittente)).unzip();
        out += &if json {
            json!({"id": id, "bytes": bytes, "identificativo": identificativo, "mittente": mittente})
                .to_string()
        } else {
            let identificativo = identificativo.as_deref().unwrap_or("no row");
            format!("{id} {bytes:>10}  {identificativo}  {}", mittente.as_deref().unwrap_or_default())
        };
        out += "\n";
    }
    Ok(out)
}

/// Each file: its id and its size.
fn kept(directory: &Path) -> anyhow::Result<Vec<(String, u64)>> {
    let mut found = Vec::new();
    for part in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let part = part?.path();
        if !part.is_dir() {
            continue;
        }
        for file in fs::read_dir(&part).with_context(|| part.display().to_string())? {
            let file = file?;
            if let Some(id) = file.file_name().to_string_lossy().strip_suffix(".p7m") {
                found.push((id.to_owned(), file.metadata()?.len()));
            }
        }
    }
    found.sort();
    Ok(found)
}

async fn show(settings: &Settings, id: &str, key_file: &Path) -> anyhow::Result<Vec<u8>> {
    let read = |path: &Path| fs::read(path).with_context(|| path.display().to_string());
    // Asks for the passphrase if the key has one.
    let key = PKey::private_key_from_pem(&read(key_file)?)
        .with_context(|| format!("{}: no private key in PEM", key_file.display()))?;
    let certificate = X509::from_pem(&read(&settings.infected_certificate_file)?)
        .context("pec_infected_certificate_file")?;
    if !certificate.public_key()?.public_eq(&key) {
        bail!(
            "{}: is not the key to pec_infected_certificate_file = {}",
            key_file.display(),
            settings.infected_certificate_file.display()
        );
    }
    let encrypted = Store::open("pec_infected_store", &settings.infected_store)?.get_pieces(id).await?;
    reading::write(settings, Event::LetturaInfetti, &format!("pecctl infected show {id}")).await?;
    CmsContentInfo::from_der(&encrypted)
        .and_then(|cms| cms.decrypt(&key, &certificate))
        .with_context(|| format!("{id}: cannot be decrypted"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use pec_core::header::Header;
    use pec_core::message::Body;
    use pec_program::infected::InfectedStore;
    use pec_test_support::network::{Network, column};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn rfc6109_2_2_4_only_the_auditor_opens_it_and_every_look_is_in_the_log() {
        let network = Network::new().await;
        let settings = &network.alfa.settings;
        let header = Header::parse(b"Subject: Prova\r\n").unwrap();
        let large = Body::from_bytes(Bytes::from("virus\r\n".repeat(300_000)));
        InfectedStore::open(settings).unwrap().put_message("abcd", &header, &large).await.unwrap();

        assert!(list(settings, false).await.unwrap().starts_with("abcd "));
        let listed: serde_json::Value = serde_json::from_str(&list(settings, true).await.unwrap()).unwrap();
        assert_eq!((listed["id"].as_str(), listed["mittente"].is_null()), (Some("abcd"), true));
        let shown = show(settings, "abcd", &network.pki.auditor_key_file()).await.unwrap();
        assert_eq!(shown, [&b"Subject: Prova\r\n\r\n"[..], &large.into_bytes()].concat());
        let other = show(settings, "abcd", &network.beta.keys.key_file).await.unwrap_err();
        assert!(other.to_string().contains("is not the key to pec_infected_certificate_file"), "{other}");
        let rows =
            column(&settings.database, "SELECT error FROM log WHERE event = 'lettura-infetti' ORDER BY seq")
                .await;
        assert_eq!(rows, ["pecctl infected list", "pecctl infected list", "pecctl infected show abcd"]);
    }
}
