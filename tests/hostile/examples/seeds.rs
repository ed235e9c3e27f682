//! Writes the corpus for the fuzz targets (tests/fuzz): each target has a directory of files, whole messages
//! or what its module reads of them, and `ca.pem` has the CA of the signatures.
//!
//!     cargo run --package pec-hostile --example seeds DIRECTORY

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use openssl::x509::X509;
use pec_core::clock::Moment;
use pec_core::envelope::signed_parts;
use pec_core::header::{Field, Header};
use pec_core::mime::{Part, decoded, walk_attached};
use pec_core::smime::crl::Places;
use pec_host::crl_directory::CrlDirectory;
use pec_hostile::arrivals::{Hands, arrivals};
use pec_hostile::forge::{ALFA_SIGNS, Forgery};
use pec_hostile::submissions::submissions;
use pec_test_support::pki::{Ca, NOW, Pki, Revoked, crl_at};
use pec_test_support::postfix::{Mail, report};

/// Larger ones (bytes) are tried in tests/hostile alone: a fuzzer gets nowhere with them.
const LARGEST: usize = 64 * 1024;

/// What is kept of a body where only the header matters.
const SHORT_BODY: usize = 2048;

struct Seeds {
    directory: PathBuf,
    number: usize,
}

impl Seeds {
    fn write(&self, target: &str, seed: &[u8]) {
        if seed.len() <= LARGEST {
            fs::create_dir_all(self.directory.join(target)).unwrap();
            fs::write(self.directory.join(target).join(format!("{:03}", self.number)), seed).unwrap();
        }
    }

    /// A message, and what each target reads of it.
    fn of(&mut self, mail: &Mail) {
        self.number += 1;
        let message = mail.to_bytes();
        self.write("mime", &message);
        self.write("envelope", &message);
        self.write("addresses", &submission(mail));
        self.write("events", &events(mail, u8::try_from(self.number % 256).unwrap()));
        self.write("dsn", &reported(mail).to_bytes());
        let Ok(parts) = signed_parts(&mail.header, &mail.body) else { return };
        let content = &mail.body[parts.content];
        if let Ok(length) = u16::try_from(content.len()) {
            self.write("cms", &[&length.to_be_bytes(), content, &parts.signature].concat());
        }
        for xml in xml_parts(content) {
            self.write("daticert", &xml);
        }
    }
}

/// The decoded XML parts of a signed content.
fn xml_parts(content: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let _ = walk_attached(content, |header, body| {
        if header.content_type().is_some_and(|m| m.essence.ends_with("/xml")) {
            found.extend(decoded(&Part { header: header.clone(), body }, content).ok());
        }
    });
    found
}

/// The message with the recipients of its SMTP envelope in the header.
fn submission(mail: &Mail) -> Vec<u8> {
    let mut header = Header::default();
    mail.recipients.iter().for_each(|recipient| header.push(Field::written("X-Rcpt", recipient)));
    mail.header.fields().iter().for_each(|field| header.push(field.clone()));
    [&header.to_bytes(), &b"\r\n"[..], &mail.body[..mail.body.len().min(SHORT_BODY)]].concat()
}

/// A delivery report about the message's recipients.
fn reported(mail: &Mail) -> Mail {
    let fates = [
        ("delivered", "2.0.0"),
        ("relayed", "2.1.5"),
        ("failed", "5.1.1"),
        ("delayed", "4.4.1"),
        ("expanded", ""),
    ];
    let fate = |(i, recipient)| {
        let (action, status) = fates[i % fates.len()];
        (str::trim_matches(recipient, ['<', '>']), action, status)
    };
    let recipients: Vec<_> = mail.recipients.iter().map(String::as_str).enumerate().map(fate).collect();
    report(Some("0123456789abcdef"), mail, &recipients, NOW)
}

/// The events of the message, as tests/fuzz/src/bin/events.rs reads them.
fn events(mail: &Mail, door: u8) -> Vec<u8> {
    let mut bytes = vec![door];
    let mut event = |command: u8, data: &[u8]| {
        let data = &data[..data.len().min(usize::from(u16::MAX))];
        bytes.push(command);
        bytes.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(data);
    };
    event(b'C', b"client.test\x004\x00\x19192.0.2.1\0");
    event(b'D', b"H{tls_version}\0TLSv1.3\0{cipher}\0TLS_AES_256_GCM_SHA384\0{cipher_bits}\x00256\0");
    event(b'H', b"client.test\0");
    event(
        b'D',
        [b"M{auth_authen}\0", mail.account.as_deref().unwrap_or_default().as_bytes(), b"\0"]
            .concat()
            .as_slice(),
    );
    event(b'M', format!("{}\0", mail.sender).as_bytes());
    for recipient in &mail.recipients {
        event(b'R', format!("{recipient}\0").as_bytes());
    }
    event(b'D', format!("Ti\0{}\0", mail.queue_id).as_bytes());
    for field in mail.header.fields() {
        let value: Vec<u8> = field.value.iter().copied().filter(|&b| b != b'\r').collect();
        event(b'L', &[field.name.as_bytes(), b"\0", &value, b"\0"].concat());
    }
    event(b'N', b"");
    for piece in mail.body.chunks(SHORT_BODY) {
        event(b'B', piece);
    }
    event(b'E', b"");
    event(b'Q', b"");
    bytes
}

/// Signatures by certificates of which the CA's revocation list, in the directory `crl`, says nothing, good,
/// bad, or all of that too long ago.
fn revocation(seeds: &mut Seeds, keys: &Path) {
    let ca = Ca::root("Prova CA 2");
    let pem = [fs::read(seeds.directory.join("ca.pem")).unwrap(), ca.certificate.to_pem().unwrap()].concat();
    fs::write(seeds.directory.join("ca.pem"), pem).unwrap();
    let crls = CrlDirectory::new(&seeds.directory.join("crl"));
    for (name, is_there, is_revoked, next_update) in [
        ("missing", false, false, NOW),
        ("good", true, false, NOW + 86_400),
        ("revoked", true, true, NOW + 86_400),
        ("old", true, false, NOW - 60),
    ] {
        let provider =
            ca.provider(keys, name, ALFA_SIGNS, &[crl_at(&[&format!("http://ca.test/{name}.crl")])]);
        let certificate = X509::from_pem(&fs::read(&provider.certificate_file).unwrap()).unwrap();
        if is_there {
            let on_it = [(&certificate, NOW - 3600)];
            let list = ca.crl(&Revoked {
                certificates: &on_it[..usize::from(is_revoked)],
                this_update: NOW - 7200,
                next_update,
                ..Revoked::NOBODY
            });
            crls.take(
                &Places::of(&certificate, &ca.certificate).http[0],
                &list,
                Moment::from_unix(NOW - 3600),
            )
            .unwrap();
        }
        seeds.of(&Forgery::envelope(name).signed(&provider.signer(ALFA_SIGNS, NOW).unwrap()));
    }
}

fn main() {
    let directory = PathBuf::from(env::args_os().nth(1).expect("the directory for the seeds is missing"));
    fs::create_dir_all(&directory).unwrap();
    let keys = tempfile::tempdir().unwrap();
    let pki = Pki::new(keys.path());
    fs::copy(pki.ca_file(), directory.join("ca.pem")).unwrap();
    let mut seeds = Seeds { directory, number: 0 };
    for case in submissions() {
        seeds.of(&case.mail);
    }
    for case in arrivals(&Hands::new(&pki)) {
        seeds.of(&case.mail);
    }
    revocation(&mut seeds, keys.path());
}
