//! No message takes more memory than docs/benchmarks.md says: 16 MB, and three times its size.
//!
//! The milters are in a process of their own, whose peak the kernel tells (VmHWM, OpenSSL's memory included);
//! another one sends what is large in the corpus. Memory that is given back leaves the process at once
//! (MALLOC_*), so that one message does not hide what the next takes.
#![allow(clippy::unwrap_used)]

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use pec_access::AccessPoint;
use pec_hostile::arrivals::{Hands, arrivals};
use pec_hostile::submissions::submissions;
use pec_incoming::{Door, IncomingPoint};
use pec_test_support::network::Network;
use pec_test_support::pki::Pki;
use pec_test_support::postfix::{Mail, start};

const ALLOWANCE: u64 = 16_000_000;
const TIMES: u64 = 3;

/// What is smaller than this stays below the allowance whatever is done with it... unless it unpacks itself:
/// archives and signatures are measured in every size.
const LARGE: usize = 300_000;

/// Runs `role` of this program, one of the tests below that nobody else runs.
fn program(role: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--ignored", "--exact", role, "--nocapture"]);
    command
}

#[test]
fn no_message_takes_more_than_its_share() {
    let mut measured = program("measured");
    measured.envs([
        ("MALLOC_ARENA_MAX", "1"),
        ("MALLOC_MMAP_THRESHOLD_", "65536"),
        ("MALLOC_TRIM_THRESHOLD_", "65536"),
    ]);
    assert!(measured.status().unwrap().success());
}

/// `VmRSS` or `VmHWM` of this process in bytes.
fn memory(which: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with(which)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a part of the test above"]
async fn measured() {
    let mut network = Network::new().await;
    let directory = network.directory.path().join("sender");
    fs::create_dir(&directory).unwrap();
    network.alfa.settings.blocked_attachments = ["exe", "js", "lnk"].map(str::to_owned).into();
    let access = start(AccessPoint::new(network.world(&network.alfa).await), ()).await;

    let mut sender = program("sender")
        .env("PEC_SENDER_HOME", &directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut to, from) = (sender.stdin.take().unwrap(), BufReader::new(sender.stdout.take().unwrap()));
    let mut said = from.lines().map_while(Result::ok);
    // What the test harness says comes before.
    let hashes = said.find_map(|line| line.strip_prefix("hashes ").map(str::to_owned)).unwrap();
    let hashes: String = hashes.split(' ').map(|sha1| format!("providerCertificateHash: {sha1}\n")).collect();
    let file = network.directory.path().join("igpec.ldif");
    let record = "mailReceipt: ricevute@gestore.alfa.test\n";
    fs::write(&file, fs::read_to_string(&file).unwrap().replacen(record, &format!("{record}{hashes}"), 1))
        .unwrap();
    network.beta.settings.ca_file = directory.join("ca.pem");
    let beta = network.world(&network.beta).await;
    let beta = start(IncomingPoint::new(beta), Door::Port25).await;
    writeln!(to, "{access} {beta}").unwrap();

    let (mut number, mut worst, mut over) = (0, (0, String::new()), Vec::new());
    loop {
        fs::write("/proc/self/clear_refs", "5").unwrap();
        let idle = memory("VmRSS");
        writeln!(to, "next").unwrap();
        let Some(line) = said.find(|l| l.starts_with("sent ") || l == "end") else {
            panic!("the sender went away")
        };
        let Some((size, name)) = line.strip_prefix("sent ").and_then(|l| l.split_once(' ')) else { break };
        let (size, took) = (size.parse::<u64>().unwrap(), memory("VmHWM").saturating_sub(idle));
        number += 1;
        worst = worst.max((
            took.saturating_sub(TIMES * size),
            format!("{name}: {} kB for {} kB", took / 1000, size / 1000),
        ));
        if took > ALLOWANCE + TIMES * size {
            over.push(format!("{name}: {took} bytes for a message of {size}"));
        }
    }
    sender.wait().unwrap();
    println!("{number} messages; the nearest to the bound: {}", worst.1);
    assert!(
        number > 30 && over.is_empty(),
        "of {number} messages these take more than {ALLOWANCE} and {TIMES} times their size:\n{}",
        over.join("\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a part of the test above"]
async fn sender() {
    let home = PathBuf::from(env::var_os("PEC_SENDER_HOME").unwrap());
    let hands = Hands::new(&Pki::new(&home));
    println!("\nhashes {}", hands.of_alfa.join(" "));
    let mut asked = std::io::stdin().lines().map_while(Result::ok);
    let addresses = asked.next().unwrap();
    let (access, beta) = addresses.split_once(' ').unwrap();
    let (access, beta) = (access.parse().unwrap(), beta.parse().unwrap());
    let of_size = |kind: &str, mail: &Mail| {
        kind.contains("zip") || kind.contains("signature") || mail.body.len() >= LARGE
    };
    let submitted = submissions().into_iter().map(|c| (c.kind, c.name, c.mail, access));
    let arriving = arrivals(&hands).into_iter().map(|c| (c.kind, c.name, c.mail, beta));
    for (kind, name, mail, milter) in
        submitted.chain(arriving).filter(|(kind, _, mail, _)| of_size(kind, mail))
    {
        asked.next().unwrap();
        mail.give_to(milter).await;
        println!("sent {} {kind}: {}", mail.to_bytes().len(), name.lines().next().unwrap_or_default());
    }
    asked.next();
    println!("end");
}
