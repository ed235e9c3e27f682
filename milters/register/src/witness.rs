//! Witnesses (`pec_witnesses`): checkpoints go to somebody who is not us.
//!
//! Promise: a witness that cosigned a checkpoint (C2SP tlog-witness, tlog-cosignature) had the proof that it
//! goes on from the one before, so not even who has all our keys can show anybody another past. What it
//! answered counts only if its key verifies it, and is kept in `witness/NAME+ID/SIZE.checkpoint`: our
//! checkpoint with its line below. To a mailbox the checkpoint is sent as a text that anybody can compare
//! later; what was sent lies in `witness/ADDRESS/SIZE.checkpoint`.
//!
//! What fails is tried again in the next round, with the newest checkpoint of then. Each file has its name
//! when it is whole; a crash sends the same once more.
//!
//! Ours: the crate signed_note knows the keys of logs, and not those of witnesses.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use openssl::base64::{decode_block, encode_block};
use openssl::pkey::{Id, PKey};
use openssl::sign::Verifier;
use pec_core::clock::Moment;
use pec_core::notices::service_address;
use pec_host::http::{Answer, Http, Limits};
use pec_host::parameters::{Settings, Witness};
use signed_note::{Note, Signature};
use tlog_tiles::Hash;

use crate::checkpoint::Checkpoint;
use crate::error::RegisterError;
use crate::prover::{make_directory, named, write};
use crate::tree::Tiles;

/// What a witness may cost; more bytes than its answer has.
const LIMITS: Limits = Limits { patience: Duration::from_secs(20), redirects: 10, largest: 64 * 1024 };

/// The kind of a witness's key (C2SP tlog-cosignature: timestamped Ed25519).
const COSIGNATURE_V1: u8 = 4;

/// Postfix's command for mail of programs.
pub const SENDMAIL: &str = "/usr/sbin/sendmail";

/// A witness was not reached, or does not cosign.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// No answer.
    #[error("does not answer: {0}")]
    Away(String),
    /// No.
    #[error("does not cosign: {0}")]
    Refused(String),
    /// It has seen more of this register than there is.
    #[error(
        "has seen {theirs} rows of this register, which has {ours}: rows are gone, or it is another \
        register"
    )]
    Ahead {
        /// What it has seen.
        theirs: u64,
        /// Our size.
        ours: u64,
    },
    /// What it answers is no signature by its key.
    #[error("what it answers is no signature of this checkpoint by the key in pec_witnesses")]
    False,
    /// The tree does not give the proof, or a file is not written.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// The checkpoint is none.
    #[error("the checkpoint to send is none")]
    Checkpoint,
    /// sendmail.
    #[error("sendmail does not take the message: {0}")]
    Mail(String),
}

/// How a witness is called in the log, and its directory.
pub fn name(witness: &Witness) -> String {
    match witness {
        Witness::Mail(address) => address.to_string(),
        Witness::Web { key, .. } => key.splitn(3, '+').take(2).collect::<Vec<_>>().join("+"),
    }
}

fn directory(register: &Path, witness: &Witness) -> PathBuf {
    register.join("witness").join(name(witness).replace('/', "_"))
}

/// The public key of a witness.
struct Key {
    name: String,
    id: u32,
    key: Vec<u8>,
}

impl Key {
    /// Of `NAME+ID+KEY`, if it is one of the kind that cosigns.
    fn read(text: &str) -> Option<Self> {
        let (name, rest) = text.split_once('+')?;
        let (id, key) = rest.split_once('+')?;
        let (id, bytes) = (u32::from_str_radix(id, 16).ok()?, decode_block(key).ok()?);
        let is_one = bytes.len() == 33
            && bytes.first() == Some(&COSIGNATURE_V1)
            && signed_note::key_id(name, &bytes) == id;
        is_one.then(|| Self { name: name.to_owned(), id, key: bytes.get(1..).unwrap_or_default().to_vec() })
    }

    /// When this witness cosigned `text` (a checkpoint without its signatures), if that is what `signature`
    /// says.
    fn verifies(&self, text: &[u8], signature: &Signature) -> Option<Moment> {
        if signature.name() != self.name || signature.id() != self.id {
            return None;
        }
        let (time, signature) = signature.signature().split_first_chunk::<8>()?;
        let time = u64::from_be_bytes(*time);
        let message = [format!("cosignature/v1\ntime {time}\n").as_bytes(), text].concat();
        let key = PKey::public_key_from_raw_bytes(&self.key, Id::ED25519).ok()?;
        let good = Verifier::new_without_digest(&key)
            .and_then(|mut verifier| verifier.verify_oneshot(signature, &message))
            .unwrap_or(false);
        good.then(|| Moment::from_unix(i64::try_from(time).unwrap_or(i64::MAX)))
    }
}

/// Who sends checkpoints.
pub struct Witnesses {
    register: PathBuf,
    witnesses: Vec<Witness>,
    every: Duration,
    http: Http,
    sendmail: PathBuf,
    sender: String,
    /// When each was served last.
    served: HashMap<String, Moment>,
}

impl Witnesses {
    /// Those of the settings. `sendmail` brings mail into Postfix's queue ([`SENDMAIL`]).
    pub fn new(settings: &Settings, sendmail: &Path) -> Self {
        Self {
            register: settings.register.clone(),
            witnesses: settings.witnesses.clone(),
            every: settings.witness_interval,
            http: Http::new(LIMITS),
            sendmail: sendmail.to_owned(),
            sender: service_address(&settings.service_domain),
            served: HashMap::new(),
        }
    }

    /// Sends the published checkpoint to each whose turn it is; gives back what came of it for each of these.
    pub fn serve_due(&mut self, tiles: &Tiles, now: Moment) -> Vec<(String, Result<u64, WitnessError>)> {
        let every = i64::try_from(self.every.as_secs()).unwrap_or(i64::MAX);
        let mut done = Vec::new();
        for witness in &self.witnesses {
            let name = name(witness);
            if self.served.get(&name).is_some_and(|at| now.unix() - at.unix() < every) {
                continue;
            }
            match self.serve(witness, tiles, now) {
                Ok(None) => {}
                Ok(Some(size)) => {
                    self.served.insert(name.clone(), now);
                    done.push((name, Ok(size)));
                }
                Err(e) => done.push((name, Err(e))),
            }
        }
        done
    }

    /// `None`: it has the newest already, or there is none.
    fn serve(&self, witness: &Witness, tiles: &Tiles, now: Moment) -> Result<Option<u64>, WitnessError> {
        let Some(text) = tiles.checkpoint()? else { return Ok(None) };
        let checkpoint = Checkpoint::read(&text).map_err(|_| WitnessError::Checkpoint)?;
        let directory = directory(&self.register, witness);
        let known = sizes(&directory)?.pop().map_or(0, |(size, _)| size);
        if checkpoint.size <= known {
            return Ok(None);
        }
        let kept = match witness {
            Witness::Mail(address) => {
                self.mail(&address.to_string(), &checkpoint, &text, now)?;
                text
            }
            Witness::Web { url, key } => {
                let key = Key::read(key).ok_or(WitnessError::False)?;
                let line = self.cosignature(url, &key, known, &checkpoint, &text, tiles)?;
                format!("{text}{line}\n")
            }
        };
        make_directory(&directory)?;
        write(&directory.join(format!("{}.checkpoint", checkpoint.size)), kept.as_bytes())?;
        Ok(Some(checkpoint.size))
    }

    /// Asks for a cosignature (C2SP tlog-witness, add-checkpoint). Where the witness knows another size than
    /// we think, it says so, and is asked once more from there.
    fn cosignature(
        &self,
        url: &str,
        key: &Key,
        known: u64,
        checkpoint: &Checkpoint,
        text: &str,
        tiles: &Tiles,
    ) -> Result<String, WitnessError> {
        let mut old = known;
        for _ in 0..2 {
            let proof = if old == 0 || old == checkpoint.size {
                Vec::new()
            } else {
                tiles.consistency(old, checkpoint.size, checkpoint.root)?
            };
            let proof: String = proof.iter().map(|hash| encode_block(&hash.0) + "\n").collect();
            let asked = self.http.post(
                &format!("{url}/add-checkpoint"),
                "text/plain",
                format!("old {old}\n{proof}\n{text}").as_bytes(),
            );
            let Answer { status, body, .. } = asked.map_err(WitnessError::Away)?;
            let body = io::read_to_string(&body[..]).map_err(|e| WitnessError::Away(format!("io: {e}")))?;
            match (status, body.trim().parse::<u64>()) {
                (200, _) => {
                    let note = Note::from_bytes(text.as_bytes()).map_err(|_| WitnessError::Checkpoint)?;
                    let is_good = |line: &&str| {
                        Signature::from_bytes(line.as_bytes())
                            .is_ok_and(|s| key.verifies(note.text(), &s).is_some())
                    };
                    return body.lines().find(is_good).map(str::to_owned).ok_or(WitnessError::False);
                }
                (409, Ok(theirs)) if theirs > checkpoint.size => {
                    return Err(WitnessError::Ahead { theirs, ours: checkpoint.size });
                }
                (409, Ok(theirs)) if theirs != old => old = theirs,
                (500.., _) => return Err(WitnessError::Away(format!("status {status}"))),
                _ => {
                    let words: String = body.lines().next().unwrap_or_default().chars().take(200).collect();
                    return Err(WitnessError::Refused(
                        format!("status {status} {words}").trim_end().to_owned(),
                    ));
                }
            }
        }
        Err(WitnessError::Refused("it names another size each time".to_owned()))
    }

    fn mail(&self, to: &str, checkpoint: &Checkpoint, text: &str, now: Moment) -> Result<(), WitnessError> {
        let failed = |e: io::Error| WitnessError::Mail(format!("{}: {e}", self.sendmail.display()));
        // The signature's line has one letter that is not ASCII.
        let message = format!(
            "From: {sender}\nTo: {to}\nDate: {date}\nSubject: Checkpoint {size} of \
            {origin}\nAuto-Submitted: auto-generated\nMIME-Version: 1.0\n\
             Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: base64\n\n{body}\n",
            sender = self.sender,
            date = now.rfc5322(),
            size = checkpoint.size,
            origin = checkpoint.origin,
            body = encode_block(text.as_bytes())
                .as_bytes()
                .chunks(76)
                .map(String::from_utf8_lossy)
                .collect::<Vec<_>>()
                .join("\n"),
        );
        let mut command = Command::new(&self.sendmail);
        command
            .args(["-i", "-f", &self.sender, "--", to])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        // What it does not read it says something about.
        let _ = child.stdin.take().map(|mut input| input.write_all(message.as_bytes()));
        let output = child.wait_with_output().map_err(failed)?;
        if output.status.success() {
            return Ok(());
        }
        Err(WitnessError::Mail(
            String::from_utf8_lossy(&output.stderr)
                .lines()
                .last()
                .unwrap_or("it fails without a word")
                .to_owned(),
        ))
    }
}

fn sizes(directory: &Path) -> Result<Vec<(u64, PathBuf)>, RegisterError> {
    let size = |file: &PathBuf| file.file_stem()?.to_str()?.parse::<u64>().ok();
    let mut files: Vec<_> =
        named(directory, ".checkpoint")?.into_iter().filter_map(|file| Some((size(&file)?, file))).collect();
    files.sort();
    Ok(files)
}

/// A checkpoint that a witness has.
#[derive(Debug, Clone, PartialEq)]
pub struct Witnessed {
    /// Where it lies.
    pub file: PathBuf,
    /// Who has it.
    pub witness: String,
    /// The size that it states.
    pub size: u64,
    /// And the root.
    pub root: Hash,
    /// When the witness cosigned it; nothing for a mailbox, which can say so only itself.
    pub at: Option<Moment>,
}

/// A file in `witness` that is not what it should be.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {trouble}")]
pub struct NotWitnessed {
    file: String,
    trouble: String,
}

/// What the witnesses of `pec_witnesses` have, as it lies here, by size. Each is held against the witness's
/// key; what the tree says of size and root is the caller's to compare.
pub fn witnessed(
    register: &Path,
    witnesses: &[Witness],
) -> Result<Vec<Result<Witnessed, NotWitnessed>>, RegisterError> {
    let mut all = Vec::new();
    for witness in witnesses {
        for (size, file) in sizes(&directory(register, witness))? {
            let text = fs::read_to_string(&file).map_err(RegisterError::file(&file))?;
            let read = read_witnessed(witness, size, &file, &text);
            all.push(read.map_err(|trouble| NotWitnessed {
                file: file.display().to_string(),
                trouble: trouble.to_owned(),
            }));
        }
    }
    Ok(all)
}

fn read_witnessed(witness: &Witness, size: u64, file: &Path, text: &str) -> Result<Witnessed, &'static str> {
    let checkpoint = Checkpoint::read(text).map_err(|_| "is no checkpoint")?;
    if checkpoint.size != size {
        return Err("states another size than its name");
    }
    let at = match witness {
        Witness::Mail(_) => None,
        Witness::Web { key, .. } => {
            let note = Note::from_bytes(text.as_bytes()).map_err(|_| "is no checkpoint")?;
            let key = Key::read(key).ok_or("the witness's key in pec_witnesses is none")?;
            let at = text
                .lines()
                .filter_map(|line| key.verifies(note.text(), &Signature::from_bytes(line.as_bytes()).ok()?))
                .next();
            Some(at.ok_or("has no cosignature by the witness's key")?)
        }
    };
    Ok(Witnessed { file: file.to_owned(), witness: name(witness), size, root: checkpoint.root, at })
}
