//! The evidence file: real rows, a real tree, a real TSA. Its README is followed by `sh` with `openssl` as
//! its only program; then a byte is changed in every member, members go and come, and each is named.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use pec_core::clock::Moment;
use pec_core::smime::certificates_from_pem;
use pec_core::smime::crl::Places;
use pec_core::smime::pem::PemSigner;
use pec_host::crl_directory::CrlDirectory;
use pec_register::attest;
use pec_register::checkpoint::LogKey;
use pec_register::error::RegisterError;
use pec_register::evidence::Members;
use pec_register::evidence::archive::{Unpacked, pack, unpack};
use pec_register::evidence::collect::{Evidence, Sources, collect};
use pec_register::evidence::verify::{Verdict, verify};
use pec_register::prover::Prover;
use pec_register::rows::each_row;
use pec_register::sealer::Sealer;
use pec_register::tree::Tiles;
use pec_register::tsa::Tsa;
use pec_state::pool::connect_reader;
use pec_test_support::network::{Network, eventually, run};
use pec_test_support::pki::{Ca, NOW, Revoked, crl_at};
use pec_test_support::tsa::{Manner, Tsa as TsaServer};

/// The PEC identifier of the message that the evidence is about.
const IDENTIFIER: &str = "opec1.20261118.100000@gestore.alfa.test";

const CRL_URL: &str = "http://crl.test/ca.crl";

struct Scene {
    network: Network,
    server: TsaServer,
    signer: PemSigner,
}

impl Scene {
    /// 260 rows of others, three about the message, and 40 of others; sealed, and attested if so.
    async fn new(is_attested: bool) -> Self {
        let mut network = Network::new().await;
        network.certify_alfa(&[crl_at(&[CRL_URL])]);
        let server = TsaServer::start();
        network.alfa.settings.timestamps = Some(server.settings());
        let signer = network.signer(&network.alfa);
        let scene = Self { network, server, signer };
        scene.crl(&Revoked::NOBODY);
        scene.rows("altri.", 260).await;
        scene.rows(IDENTIFIER, 3).await;
        scene.rows("altri.", 40).await;
        scene.tables().await;
        scene.seal().await;
        if is_attested {
            scene.attest();
        }
        scene
    }

    fn crl(&self, revoked: &Revoked) {
        let certificate = self.network.alfa.keys.certificate();
        let place = Places::of(&certificate, self.network.pki.issuing().0).http.remove(0);
        let list = self.network.pki.issuing.crl(revoked);
        CrlDirectory::new(&self.network.alfa.settings.crl_directory)
            .take(&place, &list, Moment::from_unix(NOW))
            .unwrap();
    }

    async fn sql(&self, sql: &str) {
        run(&self.network.alfa.settings.database, sql).await;
    }

    async fn rows(&self, identifier: &str, count: i64) {
        let numbered = if identifier == IDENTIFIER { String::new() } else { " || n".to_owned() };
        self.sql(&format!(
            "INSERT INTO log (happened_at, event, identificativo, msgid, mittente, destinatari, oggetto, \
            gestore, certified_by, recipients, message_sha256, queue_id, time_source) \
             SELECT to_timestamp({NOW}), 'accettazione', '{identifier}'{numbered}, '<1@client.test>', \
            'anna@pec.alfa.test', '{{\"bruno@pec.beta.test (certificato)\"}}', \
             E'Perch\\u00e9: \"50%\" \\\\ \\'$(id)\\' `x` *', 'Alfa', 'Alfa', '{{}}', sha256('x'), 'Q' || \
            n, 'clock' FROM generate_series(1, {count}) AS n"
        ))
        .await;
    }

    async fn tables(&self) {
        let to = |id: &str| format!("'{IDENTIFIER}', '<postacert>{id}</postacert>'");
        let (s5e, c1, c2) = (to("5e"), to("c1"), to("c2"));
        self.sql(&format!(
            "INSERT INTO sent VALUES ('5e', 'e1', 'Alfa', {s5e}, 'x', to_timestamp({NOW}), 'MAC'); \
             INSERT INTO custody VALUES ('c1', 'e2', 'Alfa', 'r@alfa.test', {c1}, \
            '{{bruno@pec.beta.test}}', 'x', 'x', to_timestamp({NOW}), 'MAC'), \
               ('c2', 'e3', 'Alfa', 'r@alfa.test', {c2}, '{{carla@pec.beta.test}}', 'x', 'x', \
            to_timestamp({NOW}), 'MAC'); \
             INSERT INTO fact VALUES ('f1', 'Alfa', '{IDENTIFIER}', 'accettazione', '', '5e', 'MAC', \
            to_timestamp({NOW}), 'clock', '', 'r1@gestore.alfa.test', 'MAC', 'h', 'v', 'MAC'); \
             INSERT INTO ricevuta VALUES ('{IDENTIFIER}', 'presa-in-carico', '', 'Beta', \
            'r2@gestore.beta.test', to_timestamp({NOW}), 'x', 'MAC')"
        ))
        .await;
    }

    async fn seal(&self) {
        let mut sealer =
            eventually(async || Sealer::open(&self.network.alfa.settings, "test").await.unwrap()).await;
        while sealer.seal(Moment::from_unix(NOW)).await.unwrap().is_some() {}
    }

    /// What pec-clock does once a day.
    fn attest(&self) {
        let tsa = self.tsa();
        let prover = Prover { signer: &self.signer, tsa: Some(&tsa), now: Moment::from_unix(NOW) };
        let register = &self.network.alfa.settings.register;
        attest::take(register, &Tiles::new(register).checkpoint().unwrap().unwrap(), true, prover.now)
            .unwrap();
        attest::complete(register, &prover).unwrap();
        attest::endorse(register, &LogKey::read(&self.network.alfa.settings).unwrap().public(), &prover)
            .unwrap();
    }

    fn tsa(&self) -> Tsa {
        Tsa::new(&self.server.settings()).unwrap()
    }

    async fn collect(&self) -> Result<Evidence, RegisterError> {
        let settings = &self.network.alfa.settings;
        let client = connect_reader(settings, "test").await.unwrap();
        let mut lines = Vec::new();
        each_row(&client, &format!("WHERE identificativo = '{IDENTIFIER}' ORDER BY seq"), |row| {
            lines.push(row.line.to_owned())
        })
        .await
        .unwrap();
        let tsa = self.tsa();
        let prover = Prover { signer: &self.signer, tsa: Some(&tsa), now: Moment::from_unix(NOW) };
        collect(&Sources { settings, client: &client, prover: &prover }, IDENTIFIER, lines).await
    }

    async fn members(&self) -> Members {
        self.collect().await.unwrap().members
    }
}

fn judge(members: &Members) -> Verdict {
    verify(&Unpacked { members: members.clone(), broken: Vec::new() }, None)
}

/// The names of the members that are wrong.
fn wrong(verdict: &Verdict) -> Vec<&str> {
    verdict.findings.iter().map(|finding| finding.member.as_str()).collect()
}

/// Follows the README in `members`: each block after the first by itself, with no program but openssl. The
/// output of those that succeed, and of those that do not.
fn follow(members: &Members) -> (Vec<String>, Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    for (name, content) in members {
        let file = directory.path().join("file").join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
    }
    let programs = directory.path().join("programs");
    fs::create_dir(&programs).unwrap();
    symlink("/usr/bin/openssl", programs.join("openssl")).unwrap();
    let readme = String::from_utf8_lossy(&members["README.txt"]).into_owned();
    let blocks: Vec<&str> =
        readme.split("\n```sh\n").skip(1).map(|rest| rest.split_once("```\n").unwrap().0).collect();
    let (mut right, mut wrong) = (Vec::new(), Vec::new());
    for block in &blocks[1..] {
        let mut sh = Command::new("/bin/sh");
        sh.env_clear()
            .env("PATH", &programs)
            .arg("-uc")
            .arg(format!("{}{block}", blocks[0]))
            .current_dir(directory.path().join("file"));
        let output = sh.output().unwrap();
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() { right.push(said) } else { wrong.push(said) }
    }
    (right, wrong)
}

fn flipped(members: &Members, name: &str, at: usize) -> Members {
    let mut members = members.clone();
    members.get_mut(name).unwrap()[at] ^= 1;
    members
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evidence_file_proves_its_rows_by_our_program_and_by_openssl_alone() {
    let scene = Scene::new(true).await;
    // Later rows and a later attested checkpoint: the first that has the rows is the one that counts.
    scene.rows("altri.", 300).await;
    scene.seal().await;
    scene.attest();
    let evidence = scene.collect().await.unwrap();
    assert_eq!((evidence.rows, evidence.size, evidence.unsealed.len()), (3, 303, 0));
    assert!(evidence.timestamp.is_some());
    let members = evidence.members;
    let names: Vec<&str> =
        members.keys().map(String::as_str).filter(|name| !name.starts_with("crl/")).collect();
    assert_eq!(
        names,
        [
            "README.txt",
            "certificates/ca.pem",
            "certificates/signers.pem",
            "certificates/tsa-ca.pem",
            "checkpoint",
            "checkpoint.p7s",
            "checkpoint.tsr",
            "custody/c1.daticert.xml",
            "custody/c2.daticert.xml",
            "fact.jsonl",
            "log.jsonl",
            "log.key",
            "log.key.p7s",
            "log.key.tsr",
            "manifest",
            "manifest.p7s",
            "proofs/261.txt",
            "proofs/262.txt",
            "proofs/263.txt",
            "ricevuta.jsonl",
            "sent/5e.daticert.xml",
        ]
    );
    assert_eq!(members.len(), names.len() + 1, "and one CRL");
    for table in ["fact.jsonl", "ricevuta.jsonl"] {
        let rows = String::from_utf8_lossy(&members[table]).into_owned();
        // As PostgreSQL writes the letters of MAC: what our programs alone can make something of is not in
        // it.
        assert!(rows.contains(IDENTIFIER) && !rows.contains("mac\"") && !rows.contains("4d4143"), "{rows}");
    }

    let zip = pack(&members).unwrap();
    let unpacked = unpack(&zip).unwrap();
    assert_eq!(unpacked.members, members);
    let cas: Vec<_> = [scene.network.pki.ca_file(), scene.server.ca_file()]
        .iter()
        .flat_map(|f| certificates_from_pem(&fs::read(f).unwrap()).unwrap())
        .collect();
    for trusted in [None, Some(&cas[..])] {
        let verdict = verify(&unpacked, trusted);
        assert_eq!(verdict.findings, []);
        assert!(verdict.found.contains(&"3 rows are in its tree".to_owned()), "{:?}", verdict.found);
    }
    let other = [Ca::root("Altra CA").certificate];
    let verdict = verify(&unpacked, Some(&other));
    assert_eq!(wrong(&verdict)[..2], ["manifest.p7s", "manifest"], "{:?}", verdict.findings);
    assert!(wrong(&verdict).contains(&"checkpoint.tsr"), "{:?}", verdict.findings);

    let (right, wrong) = follow(&members);
    assert_eq!(wrong, Vec::<String>::new());
    assert_eq!(right.len(), 7);
    for words in [
        "right: custody/c1.daticert.xml",
        "right: the provider has signed the manifest",
        "right: row 262 is in the tree of 303 rows",
        "right: the log key has signed the checkpoint",
        "right: the provider has signed log.key",
        "right: the TSA has seen checkpoint.p7s by",
        "right: the provider's certificate is in no list",
    ] {
        assert!(right.iter().any(|said| said.contains(words)), "{words}: {right:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_changed_byte_in_any_member_is_named_and_so_is_what_goes_and_what_comes() {
    let members = Scene::new(true).await.members().await;
    assert_eq!(judge(&members).findings, []);
    for (name, content) in &members {
        for at in [0, content.len() / 2, content.len() - 1] {
            let verdict = judge(&flipped(&members, name, at));
            assert!(wrong(&verdict).contains(&name.as_str()), "{name}, byte {at}: {:?}", verdict.findings);
        }
        let mut without = members.clone();
        without.remove(name);
        let verdict = judge(&without);
        assert!(
            verdict.findings.iter().any(|f| f.member == *name && f.what == "is missing"),
            "{name}: {:?}",
            verdict.findings
        );

        // In the zip file itself, whose own checksum is then wrong.
        let mut zip = pack(&members).unwrap();
        let place = zip.windows(content.len()).position(|bytes| bytes == content).unwrap();
        zip[place + content.len() / 2] ^= 1;
        let verdict = verify(&unpack(&zip).unwrap(), None);
        assert!(wrong(&verdict).contains(&name.as_str()), "{name}: {:?}", verdict.findings);
    }
    // The one member that no hash vouches for: every byte of it counts.
    for at in (0..members["manifest.p7s"].len()).step_by(5) {
        let verdict = judge(&flipped(&members, "manifest.p7s", at));
        assert!(wrong(&verdict).contains(&"manifest.p7s"), "byte {at}: {:?}", verdict.findings);
    }
    let mut with = members.clone();
    with.insert("proofs/1.txt".to_owned(), b"leaf 0 of 1\n".to_vec());
    assert_eq!(wrong(&judge(&with)), ["proofs/1.txt"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readmes_own_commands_find_one_changed_byte() {
    let members = Scene::new(true).await.members().await;
    for (name, content) in &members {
        // A certificate that goes with a signature is not what was signed: the signature's own bytes are at
        // its end.
        let at = if name == "manifest.p7s" { content.len() - 9 } else { content.len() / 2 };
        let mut changed = flipped(&members, name, at);
        if name == "README.txt" {
            // Its commands are those of the true one, which whoever checks has read.
            let (first, rest) = members[name].split_at(40);
            changed.insert(name.clone(), [first, b"x", rest].concat());
        }
        let (_, wrong) = follow(&changed);
        assert!(!wrong.is_empty(), "{name}");
        let is_named = wrong.iter().any(|said| {
            said.contains(&format!("WRONG: {name}\n"))
                || said.contains("WRONG: the provider has signed the manifest")
        });
        assert!(is_named, "{name}: {wrong:?}");
    }
    // Who has the provider's key and makes a new manifest still cannot have another row, key or time.
    for (name, said_wrong) in [
        ("log.jsonl", "WRONG: row "),
        ("proofs/262.txt", "WRONG: row 262 is in the tree"),
        ("checkpoint", "WRONG: the log key has signed the checkpoint"),
        ("log.key", "WRONG: the provider has signed log.key"),
        ("checkpoint.tsr", "WRONG: the TSA has seen checkpoint.p7s"),
        ("checkpoint.p7s", "WRONG: the TSA has seen checkpoint.p7s"),
        ("log.key.p7s", "WRONG: the TSA has seen log.key.p7s"),
    ] {
        // A timestamp's own signature is at its end; before it is the TSA's certificate, which is in
        // certificates/ too.
        let at = if name.ends_with(".tsr") { members[name].len() - 9 } else { members[name].len() / 2 };
        let (_, wrong) = follow(&flipped(&members, name, at));
        assert!(wrong.iter().any(|said| said.contains(said_wrong)), "{name}: {wrong:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_in_it_is_said_with_the_reason() {
    let scene = Scene::new(false).await;
    let text = |members: &Members| String::from_utf8(members["README.txt"].clone()).unwrap();
    // Nobody has signed a checkpoint with these rows yet: it is signed and timestamped now.
    let members = scene.members().await;
    assert_eq!(judge(&members).findings, []);
    assert!(text(&members).contains("it was signed now, for this evidence"));

    scene.server.answers(Manner::Silence);
    fs::remove_dir_all(&scene.network.alfa.settings.crl_directory).unwrap();
    let members = scene.members().await;
    assert_eq!(judge(&members).findings, []);
    assert_eq!(follow(&members).1, Vec::<String>::new());
    for words in [
        "checkpoint.tsr, the timestamp: the TSA http://127.0.0.1:",
        "There is no timestamp (see below): the time is the provider's word alone.",
        "the revocation lists (CRLs) of the provider's CA: there are none in pec_crl_directory",
        "the original message, the signed envelope and receipts: the provider does not keep them",
    ] {
        assert!(text(&members).contains(words), "{words}: {}", text(&members));
    }

    scene.rows(IDENTIFIER, 1).await;
    let evidence = scene.collect().await.unwrap();
    assert_eq!((evidence.rows, evidence.unsealed), (3, vec![304]));
    assert!(text(&evidence.members).contains("row 304 of the register: not sealed yet"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_was_changed_is_no_evidence() {
    let scene = Scene::new(true).await;
    scene
        .sql(
            "SET session_replication_role = replica; UPDATE log SET mittente = 'eva@pec.alfa.test' WHERE \
        seq = 262",
        )
        .await;
    let error = scene.collect().await.unwrap_err().to_string();
    assert_eq!(
        error,
        "row 262 is not the one that was sealed: `pecctl log verify` says more. It is no evidence"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_was_revoked_before_it_signed_is_named_and_one_that_was_later_is_told() {
    let scene = Scene::new(false).await;
    scene.server.answers(Manner::Silence);
    let certificate = scene.network.alfa.keys.certificate();
    let mut outcomes = Vec::new();
    for (number, since) in [(2, NOW - 60), (3, NOW + 60)] {
        scene.crl(&Revoked { certificates: &[(&certificate, since)], number, ..Revoked::NOBODY });
        outcomes.push(judge(&scene.members().await));
    }
    assert_eq!(
        wrong(&outcomes[0]),
        ["manifest.p7s", "log.key.p7s", "checkpoint.p7s"],
        "{:?}",
        outcomes[0].findings
    );
    assert_eq!(outcomes[1].findings, []);
    assert!(
        outcomes[1].found.iter().any(|found| found.contains("was revoked later")),
        "{:?}",
        outcomes[1].found
    );
}

#[test]
fn what_is_no_zip_file_is_an_error_and_a_name_twice_is_named() {
    assert!(unpack(b"not a zip").is_err());
    let members: Members = [("aa".to_owned(), b"1".to_vec()), ("ab".to_owned(), b"2".to_vec())].into();
    let mut zip = pack(&members).unwrap();
    for place in (0..zip.len() - 1).filter(|i| zip[*i..*i + 2] == *b"ab").collect::<Vec<_>>() {
        zip[place + 1] = b'a';
    }
    let verdict = verify(&unpack(&zip).unwrap(), None);
    assert!(wrong(&verdict).contains(&"the zip file"), "{:?}", verdict.findings);
    assert!(Path::new("/usr/bin/openssl").exists());
}
