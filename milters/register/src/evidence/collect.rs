//! Collecting what an evidence file has.
//!
//! Promise: nothing goes into it that does not fit together. A row whose proof does not lead to the
//! checkpoint's root is not exported as evidence, it is an error.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::path::Path;

use openssl::pkcs7::Pkcs7;
use openssl::sha::sha256;
use openssl::x509::X509;
use pec_core::clock::Moment;
use pec_core::identifier::hex;
use pec_core::smime::certificates_from_pem;
use pec_core::smime::sign::{SignError, detached};
use pec_core::smime::signing_time::signed_at;
use pec_host::crl_directory::CrlDirectory;
use pec_host::parameters::Settings;
use tokio_postgres::Client;

use super::readme::{Facts, Present, Signed};
use super::{
    CA, CHECKPOINT, KEY, LOG, MANIFEST, MANIFEST_SIGNATURE, Members, README, SIGNERS, TSA_CA, beside, proof,
    proof_of, readme, to_pem,
};
use crate::attest;
use crate::checkpoint::{Checkpoint, LogKey};
use crate::error::RegisterError;
use crate::prover::{Prover, signature_of, timestamp_of};
use crate::row::{Row, entry, leaf};
use crate::sealer::{last_seal, seals};
use crate::tree::Tiles;
use crate::tsa::{TsaCas, certificates_of};

/// Where everything comes from.
pub struct Sources<'a> {
    /// The provider.
    pub settings: &'a Settings,
    /// A connection that may read.
    pub client: &'a Client,
    /// Who signs, says when, and the present.
    pub prover: &'a Prover<'a>,
}

/// What was asked for, packed.
#[derive(Debug)]
pub struct Evidence {
    /// The members.
    pub members: Members,
    /// How many rows are in it.
    pub rows: usize,
    /// Rows that are there and not sealed yet: they are not in it.
    pub unsealed: Vec<i64>,
    /// How many leaves the checkpoint has.
    pub size: u64,
    /// When a TSA saw it, if one did.
    pub timestamp: Option<Moment>,
}

/// Makes the evidence of these rows (their lines), all of them about the messages that `asked` names.
pub async fn collect(
    sources: &Sources<'_>,
    asked: &str,
    lines: Vec<String>,
) -> Result<Evidence, RegisterError> {
    let (settings, client) = (sources.settings, sources.client);
    let mut members = Members::new();
    let mut rows: Vec<(u64, Row, String)> = Vec::new();
    let mut unsealed = Vec::new();
    for line in lines {
        let row = Row::from_line(&line)?;
        match leaf_of(client, row.seq).await? {
            Some(number) => rows.push((number, row, line)),
            None => unsealed.push(row.seq),
        }
    }
    rows.sort_by_key(|(_, row, _)| row.seq);
    rows.dedup_by_key(|(_, row, _)| row.seq);
    let Some(last) = rows.iter().map(|(number, ..)| *number).max() else {
        return Err(RegisterError::Unsealed);
    };

    let tsa_cas =
        settings.timestamps.as_ref().map(|timestamps| TsaCas::read(&timestamps.ca_file)).transpose()?;
    let mut notes = Notes::default();
    let checkpoint = put_checkpoint(sources, last, tsa_cas.as_ref(), &mut members, &mut notes)?;
    put_rows(settings, &rows, &checkpoint.read, &mut members)?;
    let identifiers: BTreeSet<String> = rows.iter().map(|(_, row, _)| row.identificativo.clone()).collect();
    put_tables(sources, &identifiers, &mut members, &mut notes).await?;

    let cas = certificates(&settings.ca_file)?;
    let signers = put_certificates(sources, &cas, tsa_cas.as_ref(), &mut members);
    put_crls(settings, &signers, &mut members, &mut notes);
    for seq in &unsealed {
        notes.missing(
            &format!("la riga {seq} del registro: non ancora sigillata (accade entro due secondi)"),
            &format!("row {seq} of the register: not sealed yet (that happens within two seconds)"),
        );
    }

    let now = sources.prover.now;
    let facts = Facts {
        asked,
        provider: &settings.provider_name,
        service_domain: &settings.service_domain,
        now,
        rows: rows.len(),
        identifiers: &identifiers,
        checkpoint: &checkpoint.read,
        signed_now: checkpoint.signed_now,
        key: checkpoint.key,
        seal: checkpoint.signed,
        cas: &cas,
        missing: &notes.missing,
    };
    let readme = readme::write(&facts, &Present::of(&members));
    members.insert(README.to_owned(), readme.into_bytes());
    let manifest: String =
        members.iter().map(|(name, content)| format!("{}  {name}\n", hex(&sha256(content)))).collect();
    let signature = detached(sources.prover.signer, &sha256(manifest.as_bytes()), now).map_err(unsigned)?;
    members.insert(MANIFEST.to_owned(), manifest.into_bytes());
    members.insert(MANIFEST_SIGNATURE.to_owned(), signature);
    Ok(Evidence {
        members,
        rows: rows.len(),
        unsealed,
        size: checkpoint.read.size,
        timestamp: checkpoint.signed.stamped,
    })
}

fn unsigned(trouble: SignError) -> RegisterError {
    RegisterError::Unsigned { what: "the evidence".to_owned(), trouble }
}

/// Whether all of these rows (their lines) are sealed, and the files that prove it are there.
pub async fn are_sealed(
    settings: &Settings,
    client: &Client,
    lines: &[String],
) -> Result<bool, RegisterError> {
    // The files come a moment after the seal.
    let published = Tiles::new(&settings.register).published()?;
    for line in lines {
        if leaf_of(client, Row::from_line(line)?.seq).await?.is_none_or(|leaf| leaf >= published) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What is not in the file, in Italian and English.
#[derive(Default)]
struct Notes {
    missing: Vec<(String, String)>,
}

impl Notes {
    fn missing(&mut self, italian: &str, english: &str) {
        self.missing.push((italian.to_owned(), english.to_owned()));
    }
}

/// The number of a row's leaf. `None`: it is not sealed.
pub(crate) async fn leaf_of(client: &Client, seq: i64) -> Result<Option<u64>, RegisterError> {
    let Some(last) = last_seal(client).await? else { return Ok(None) };
    // The largest number that is sealed only grows: the first seal that goes beyond the row has it, or a
    // later one has.
    let (mut first, mut end) = (0, last.number + 1);
    while first < end {
        let middle = first + (end - first) / 2;
        let row = client
            .query_one("SELECT number, high FROM seal WHERE number >= $1 ORDER BY number LIMIT 1", &[&middle])
            .await?;
        let (number, high): (i64, i64) = (row.get(0), row.get(1));
        if high < seq { first = number + 1 } else { end = middle }
    }
    let condition =
        format!("number = (SELECT min(number) FROM seal WHERE number >= {first} AND seqs @> {seq}::int8)");
    let found = seals(client, &condition).await?.pop();
    Ok(found.and_then(|seal| Some(seal.first + seal.seqs.place(seq)?)))
}

struct Chosen {
    read: Checkpoint,
    /// Nobody had signed it before.
    signed_now: bool,
    key: Signed,
    signed: Signed,
}

/// The checkpoint: the first that was signed and timestamped after the last of the rows was sealed, since
/// what it proves it proves for the earliest time. Where there is none yet, the newest, which is signed now.
fn put_checkpoint(
    sources: &Sources<'_>,
    last: u64,
    tsa_cas: Option<&TsaCas>,
    members: &mut Members,
    notes: &mut Notes,
) -> Result<Chosen, RegisterError> {
    let register = &sources.settings.register;
    let is_complete =
        |file: &Path| signature_of(file).exists() && (tsa_cas.is_none() || timestamp_of(file).exists());
    let attested =
        attest::attested(register)?.into_iter().find(|(size, file)| *size > last && is_complete(file));
    let signed_now = attested.is_none();
    let read_file = |file: &Path| std::fs::read(file).map_err(RegisterError::file(file));
    let (text, proofs) = match attested {
        Some((_, file)) => (read_file(&file)?, Some(file)),
        None => (Tiles::new(register).checkpoint()?.unwrap_or_default().into_bytes(), None),
    };
    let text = String::from_utf8_lossy(&text).into_owned();
    let size = Checkpoint::read(&text).map_or(0, |checkpoint| checkpoint.size);
    if size <= last {
        return Err(RegisterError::Unsealed);
    }
    let signed =
        put_signed(sources, CHECKPOINT, text.as_bytes(), proofs.as_deref(), tsa_cas, members, notes)?;

    let mut keys = attest::log_keys(register)?;
    let ours = LogKey::read(sources.settings).map(|key| key.public());
    let found = keys.iter().position(|(_, key)| Checkpoint::open(&text, key).is_ok());
    let (file, key) = match found {
        Some(place) => {
            let (file, key) = keys.swap_remove(place);
            (Some(file).filter(|file| is_complete(file)), key)
        }
        // pec-clock has not come to it yet.
        None => (None, ours?),
    };
    let read = Checkpoint::open(&text, &key).map_err(|_| RegisterError::ForeignCheckpoint(size))?;
    let key =
        put_signed(sources, KEY, format!("{key}\n").as_bytes(), file.as_deref(), tsa_cas, members, notes)?;
    Ok(Chosen { read, signed_now, key, signed })
}

/// A member with the signature and the timestamp that lie beside `file`; or with those that it gets now.
fn put_signed(
    sources: &Sources<'_>,
    name: &str,
    content: &[u8],
    file: Option<&Path>,
    tsa_cas: Option<&TsaCas>,
    members: &mut Members,
    notes: &mut Notes,
) -> Result<Signed, RegisterError> {
    let prover = sources.prover;
    let existing = |path: std::path::PathBuf| std::fs::read(path).ok();
    let signature = match file.and_then(|file| existing(signature_of(file))) {
        Some(signature) => signature,
        None => detached(prover.signer, &sha256(content), prover.now).map_err(unsigned)?,
    };
    let stamp = match (file.and_then(|file| existing(timestamp_of(file))), prover.tsa) {
        (Some(stamp), _) => Some(stamp),
        (None, Some(tsa)) => match tsa.stamp(&signature) {
            Ok((stamp, _)) => Some(stamp),
            Err(e) => {
                notes.missing(
                    &format!("{name}.tsr, la marca temporale: {e}"),
                    &format!("{name}.tsr, the timestamp: {e}"),
                );
                None
            }
        },
        (None, None) => {
            notes.missing(
                &format!("{name}.tsr, la marca temporale: il gestore non ha una TSA (pec_tsa_url)"),
                &format!("{name}.tsr, the timestamp: the provider has no TSA (pec_tsa_url)"),
            );
            None
        }
    };
    // One that is not good, or by a TSA that is not the provider's any more, proves nothing here.
    let stamped = stamp
        .as_ref()
        .and_then(|stamp| tsa_cas?.verify(&signature, stamp).ok())
        .map(|timestamp| timestamp.at);
    if let Some(stamp) = stamp.filter(|_| stamped.is_some()) {
        members.insert(beside(name, "tsr"), stamp);
    }
    let signed = Signed { at: signed_at(&signature).unwrap_or(prover.now), stamped };
    members.insert(name.to_owned(), content.to_vec());
    members.insert(beside(name, "p7s"), signature);
    Ok(signed)
}

fn put_rows(
    settings: &Settings,
    rows: &[(u64, Row, String)],
    checkpoint: &Checkpoint,
    members: &mut Members,
) -> Result<(), RegisterError> {
    let tiles = Tiles::new(&settings.register);
    let mut log = String::new();
    for (number, row, line) in rows {
        let path = tiles.proof(*number, checkpoint.size, checkpoint.root)?;
        let (text, root) = proof::render(*number, checkpoint.size, leaf(&entry(line)), &path);
        if root != checkpoint.root {
            return Err(RegisterError::RowAltered(row.seq));
        }
        members.insert(proof_of(row.seq), text.into_bytes());
        log += line;
        log.push('\n');
    }
    members.insert(LOG.to_owned(), log.into_bytes());
    Ok(())
}

/// What the programs' tables have about the messages: daticert.xml of the envelope, facts, the others'
/// receipts.
async fn put_tables(
    sources: &Sources<'_>,
    identifiers: &BTreeSet<String>,
    members: &mut Members,
    notes: &mut Notes,
) -> Result<(), RegisterError> {
    let client = sources.client;
    let wanted: Vec<&String> = identifiers.iter().collect();
    // What names a member is ours, and has nothing that a path could be made of.
    let name = |directory: &str, id: &str, what: &str| {
        (!id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric()))
            .then(|| format!("{directory}/{id}{what}"))
    };
    for (directory, sql) in [
        ("sent", "SELECT id, daticert FROM sent WHERE identificativo = ANY($1)"),
        (
            "not_accepted",
            "SELECT n.id, n.daticert
             FROM not_accepted n JOIN fact f ON f.source = n.id
             WHERE f.identificativo = ANY($1)",
        ),
        ("custody", "SELECT id, daticert FROM custody WHERE identificativo = ANY($1)"),
    ] {
        for row in client.query(sql, &[&wanted]).await? {
            let (id, daticert): (String, String) = (row.get(0), row.get(1));
            if let Some(name) = name(directory, &id, ".daticert.xml") {
                members.insert(name, daticert.into_bytes());
            }
        }
    }
    for (table, order) in [("fact", "happened_at, id"), ("ricevuta", "happened_at, message_id")] {
        // What authenticates a row to our own programs says nothing to others.
        let sql = format!(
            "SELECT (to_jsonb({table}) - ARRAY['mac', 'source_mac', 'notice_mac'])::text
             FROM {table}
             WHERE identificativo = ANY($1)
             ORDER BY {order}"
        );
        let lines: String = client
            .query(&sql, &[&wanted])
            .await?
            .iter()
            .map(|row| format!("{}\n", row.get::<_, String>(0)))
            .collect();
        if !lines.is_empty() {
            members.insert(format!("{table}.jsonl"), lines.into_bytes());
        }
    }
    notes.missing(
        "il messaggio originale, la busta di trasporto e le ricevute firmate: il gestore non li conserva, \
        li hanno mittente e destinatari; il punto 7 dice come confrontarli con il registro",
        "the original message, the signed envelope and receipts: the provider does not keep them, sender \
        and recipients have them; section 7 says how to compare them with the register",
    );
    Ok(())
}

fn certificates(file: &Path) -> Result<Vec<X509>, RegisterError> {
    let error = RegisterError::file(file);
    let pem = std::fs::read(file).map_err(&error)?;
    certificates_from_pem(&pem).map_err(|trouble| error(io::Error::other(trouble)))
}

/// The CAs, and every certificate that a signature or a timestamp has with it.
fn put_certificates(
    sources: &Sources<'_>,
    cas: &[X509],
    tsa_cas: Option<&TsaCas>,
    members: &mut Members,
) -> Vec<X509> {
    use der::Encode as _;
    let identity = sources.prover.signer.identity();
    let own = std::iter::once(&identity.certificate).chain(&identity.chain);
    let mut signers: Vec<X509> =
        own.filter_map(|certificate| X509::from_der(&certificate.to_der().ok()?).ok()).collect();
    for (name, content) in &*members {
        if name.ends_with(".p7s") {
            signers.extend(certificates_in(content));
        } else if name.ends_with(".tsr") {
            signers.extend(certificates_of(content));
        }
    }
    let mut seen = HashSet::new();
    signers.retain(|certificate| seen.insert(certificate.to_der().unwrap_or_default()));
    members.insert(CA.to_owned(), to_pem(cas));
    if let Some(tsa_cas) = tsa_cas {
        members.insert(TSA_CA.to_owned(), to_pem(tsa_cas.certificates()));
    }
    members.insert(SIGNERS.to_owned(), to_pem(&signers));
    signers
}

/// The certificates that came with a signature.
pub(crate) fn certificates_in(signature: &[u8]) -> Vec<X509> {
    let Ok(pkcs7) = Pkcs7::from_der(signature) else { return Vec::new() };
    pkcs7
        .signed()
        .and_then(|signed| signed.certificates())
        .into_iter()
        .flatten()
        .map(ToOwned::to_owned)
        .collect()
}

/// The CRLs in force of those who issued the signers' certificates, as they lie in `pec_crl_directory`.
fn put_crls(settings: &Settings, signers: &[X509], members: &mut Members, notes: &mut Notes) {
    let issuers: HashSet<Vec<u8>> =
        signers.iter().filter_map(|signer| signer.issuer_name().to_der().ok()).collect();
    let known = CrlDirectory::new(&settings.crl_directory).lists().map(|lists| lists.all());
    let mut found = 0;
    for list in known.unwrap_or_default() {
        let is_theirs = list.place.issuer.subject_name().to_der().is_ok_and(|name| issuers.contains(&name));
        let file = settings.crl_directory.join(format!("{}.pem", list.place.key()));
        if is_theirs
            && list.crl.is_some()
            && let Ok(content) = std::fs::read(file)
        {
            members.insert(format!("crl/{}.pem", list.place.key()), content);
            found += 1;
        }
    }
    if found == 0 {
        notes.missing(
            "le liste di revoca (CRL) della CA del gestore: non ce ne sono in pec_crl_directory",
            "the revocation lists (CRLs) of the provider's CA: there are none in pec_crl_directory",
        );
    }
}
