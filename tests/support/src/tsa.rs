//! A timestamping authority: `openssl ts -reply` behind a small web server, real answers over real sockets.
//! It can be told to lie, to say no and to be away.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use openssl::x509::extension::{ExtendedKeyUsage, KeyUsage};
use pec_host::parameters::Timestamps;
use tempfile::TempDir;

use crate::pki::Ca;

/// How it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// As it should.
    Honest,
    /// Over another hash than the one asked about.
    WrongImprint,
    /// To another question about the same hash.
    OtherNonce,
    /// Signed with a certificate that is not for timestamps.
    OtherPurpose,
    /// Something that is no answer.
    Garbage,
    /// That it knows no such hash (a rejection, status 2).
    Rejection,
    /// With an error of the web server.
    Error,
    /// Not at all: it takes the connection and closes it.
    Silence,
}

/// The server.
pub struct Tsa {
    address: SocketAddr,
    desk: Arc<Desk>,
    running: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

struct Desk {
    directory: TempDir,
    manner: Mutex<Manner>,
    asked: AtomicUsize,
}

impl Tsa {
    /// Starts one with a CA of its own.
    pub fn start() -> Self {
        Self::start_below(&Ca::root("Prova TSA Root"))
    }

    /// Starts one for which `ca` vouches.
    pub fn start_below(ca: &Ca) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let usage = ExtendedKeyUsage::new().critical().time_stamping().build().unwrap();
        write_keys(
            ca,
            &at("tsa"),
            vec![KeyUsage::new().critical().digital_signature().build().unwrap(), usage],
        );
        write_keys(ca, &at("other"), vec![KeyUsage::new().critical().digital_signature().build().unwrap()]);
        fs::write(at("ca.pem"), ca.certificate.to_pem().unwrap()).unwrap();
        for (name, digests) in [("ts.cnf", "sha256"), ("picky.cnf", "sha512")] {
            let text = format!(
                "[tsa]\ndefault_tsa = it\n[it]\nserial = {}\ncrypto_device = builtin\nsigner_digest = \
                sha256\ndefault_policy = 1.2.3.4.1\n\
                 digests = {digests}\naccuracy = secs:1\nordering = yes\ntsa_name = yes\ness_cert_id_chain \
                = no\ness_cert_id_alg = sha256\n",
                at("serial").display()
            );
            fs::write(at(name), text).unwrap();
        }
        fs::write(at("serial"), "01\n").unwrap();
        let desk =
            Arc::new(Desk { directory, manner: Mutex::new(Manner::Honest), asked: AtomicUsize::new(0) });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut tsa = Self { address: listener.local_addr().unwrap(), desk, running: None };
        tsa.serve(listener);
        tsa
    }

    /// The parameters that name it.
    pub fn settings(&self) -> Timestamps {
        Timestamps { url: format!("http://{}/tsa", self.address), ca_file: self.ca_file() }
    }

    /// Its CA.
    pub fn ca_file(&self) -> PathBuf {
        self.desk.directory.path().join("ca.pem")
    }

    /// From now on it answers so.
    pub fn answers(&self, manner: Manner) {
        *self.desk.manner.lock().unwrap() = manner;
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.desk.asked.load(Ordering::SeqCst)
    }

    fn serve(&mut self, listener: TcpListener) {
        let stopped = Arc::new(AtomicBool::new(false));
        let (desk, ends) = (Arc::clone(&self.desk), Arc::clone(&stopped));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ends.load(Ordering::SeqCst) {
                    return;
                }
                desk.answer(stream);
            }
        });
        self.running = Some((stopped, thread));
    }
}

impl Drop for Tsa {
    fn drop(&mut self) {
        if let Some((stopped, thread)) = self.running.take() {
            stopped.store(true, Ordering::SeqCst);
            // Wakes it up.
            drop(TcpStream::connect(self.address));
            thread.join().unwrap();
        }
    }
}

fn write_keys(ca: &Ca, at: &Path, extensions: Vec<openssl::x509::X509Extension>) {
    let (certificate, key) = ca.leaf("Prova TSA", &extensions);
    fs::write(at.with_extension("pem"), certificate.to_pem().unwrap()).unwrap();
    fs::write(at.with_extension("key"), key.private_key_to_pem_pkcs8().unwrap()).unwrap();
}

impl Desk {
    fn answer(&self, mut stream: TcpStream) {
        let mut reader = BufReader::new(&mut stream);
        let mut length = 0;
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            line.clear();
        }
        let mut question = vec![0; length];
        if reader.read_exact(&mut question).is_err() || question.is_empty() {
            return;
        }
        self.asked.fetch_add(1, Ordering::SeqCst);
        let manner = *self.manner.lock().unwrap();
        let (status, body) = match manner {
            Manner::Silence => return,
            Manner::Error => ("503 Service Unavailable", Vec::new()),
            Manner::Garbage => ("200 OK", b"<html>Please log in</html>".to_vec()),
            Manner::Honest => ("200 OK", self.reply(&question, "ts.cnf")),
            Manner::Rejection => ("200 OK", self.reply(&question, "picky.cnf")),
            // The question is SHA-256's identifier, the hash, and a nonce of eight bytes before the last
            // three.
            Manner::WrongImprint => ("200 OK", self.reply(&flipped(question, 40), "ts.cnf")),
            Manner::OtherNonce => {
                let last = question.len() - 4;
                ("200 OK", self.reply(&flipped(question, last), "ts.cnf"))
            }
            Manner::OtherPurpose => ("200 OK", self.signed_by_other(&self.reply(&question, "ts.cnf"))),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/timestamp-reply\r\nContent-Length: \
            {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        // Whoever does not read it has lost interest.
        let _ = stream.write_all(&[head.as_bytes(), &body].concat());
    }

    fn openssl(&self, arguments: &[&str]) {
        let output =
            Command::new("openssl").current_dir(self.directory.path()).args(arguments).output().unwrap();
        assert!(
            output.status.success(),
            "openssl {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn reply(&self, question: &[u8], configuration: &str) -> Vec<u8> {
        fs::write(self.directory.path().join("question"), question).unwrap();
        // A rejection is an answer, too, whatever the exit status says.
        let mut command = Command::new("openssl");
        command.current_dir(self.directory.path()).args([
            "ts",
            "-reply",
            "-config",
            configuration,
            "-queryfile",
            "question",
            "-out",
            "answer",
        ]);
        command.args(["-signer", "tsa.pem", "-inkey", "tsa.key"]).output().unwrap();
        fs::read(self.directory.path().join("answer")).unwrap()
    }

    /// The same TSTInfo, signed with the certificate that has another purpose.
    fn signed_by_other(&self, answer: &[u8]) -> Vec<u8> {
        let at = |name: &str| self.directory.path().join(name);
        fs::write(at("answer"), answer).unwrap();
        self.openssl(&["ts", "-reply", "-in", "answer", "-token_out", "-out", "token"]);
        self.openssl(&[
            "cms",
            "-verify",
            "-noverify",
            "-binary",
            "-inform",
            "DER",
            "-in",
            "token",
            "-out",
            "info",
        ]);
        let kind = ["-econtent_type", "1.2.840.113549.1.9.16.1.4"];
        let sign = [
            "cms",
            "-sign",
            "-cades",
            "-binary",
            "-nodetach",
            "-outform",
            "DER",
            "-in",
            "info",
            "-out",
            "token",
            "-signer",
            "other.pem",
        ];
        self.openssl(&[&sign[..], &["-inkey", "other.key"], &kind].concat());
        let token = fs::read(at("token")).unwrap();
        let granted = [0x30, 0x03, 0x02, 0x01, 0x00];
        let length = u16::try_from(granted.len() + token.len()).unwrap().to_be_bytes();
        [&[0x30, 0x82], &length[..], &granted, &token].concat()
    }
}

fn flipped(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    bytes[at] ^= 1;
    bytes
}
