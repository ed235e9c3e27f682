//! What the directory of providers costs: 25 providers with a million domains, loaded, asked, and exchanged
//! for another that was fetched. Beside it the same in a plain hash map. Seconds are of the CPU, so that what
//! else runs does not count. It fails where a bound is not kept. `cargo run --release -p pec-core --example
//! directory`; docs/benchmarks.md has the figures.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};

use openssl::x509::X509;
use pec_core::clock::Moment;
use pec_core::directory::changes::{changes, much_smaller};
use pec_core::directory::{Directory, signed};
use pec_core::smime::sign::enclosing;
use pec_host::read;
use pec_test_support::pki::{NOW, Pki};

const PROVIDERS: usize = 25;
const DOMAINS: usize = 1_000_000;
const QUESTIONS: usize = 2_000_000;

fn main() {
    let file = std::env::temp_dir().join(format!("pec-directory-{}.ldif", std::process::id()));
    fs::write(&file, ldif()).unwrap();
    let before = memory();
    let start = cpu();
    let directory = read::directory(&file).unwrap();
    let (seconds, megabytes) = (cpu() - start, memory() - before);
    println!("load: {seconds:.2} s, {megabytes:.0} MB");
    assert!(seconds < 3.0 && megabytes < 200.0, "bounds: 3 s, 200 MB");

    let names: Vec<String> = (0..DOMAINS * 2).map(domain).collect();
    // Half of them are there, each far from the one before.
    let questions = || (0..QUESTIONS).map(|n| &names[n * 7_919 % names.len()]);
    let ours = each(|| questions().filter(|name| directory.has_domain(name)).count());
    let before = memory();
    let start = cpu();
    let map: HashMap<String, usize> = (0..DOMAINS).map(|n| (names[n].clone(), n % PROVIDERS)).collect();
    println!("plain hash map: {:.2} s without the reading, {:.0} MB", cpu() - start, memory() - before);
    let plain = each(|| questions().filter(|name| map.contains_key(name.as_str())).count());
    drop(map);
    println!(
        "one look-up: {ours:.0} ns; in the plain hash map {plain:.0} ns, {:.1} times that",
        ours / plain
    );
    assert!(ours < 1000.0, "bound: 1 µs");

    let before = memory();
    let start = cpu();
    let other = read::directory(&file).unwrap();
    println!(
        "a second one beside it, as while a program takes up a new file: {:.2} s, {:.0} MB more",
        cpu() - start,
        memory() - before
    );
    let start = cpu();
    assert!(changes(&directory, &other, 100).is_empty());
    println!("all differences between the two: {:.2} s", cpu() - start);
    drop(other);

    let (p7m, signer) = signed_file(&fs::read(&file).unwrap());
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory();
    let start = cpu();
    fetched(fs::read(&p7m).unwrap(), &signer, &file);
    println!(
        "what is fetched, opened, read and held against what is in force: {:.2} s, up to {:.0} MB more \
        meanwhile, {:.0} MB after it",
        cpu() - start,
        status("VmHWM:") - before,
        memory() - before
    );
    [file, p7m].into_iter().for_each(|file| fs::remove_file(file).unwrap());
}

/// The same file signed, and by whom.
fn signed_file(ldif: &[u8]) -> (PathBuf, X509) {
    let directory = tempfile::tempdir().unwrap();
    let keys = Pki::new(directory.path()).provider("AgID", "indice@agid.test");
    let now = Moment::from_unix(NOW);
    let file = std::env::temp_dir().join(format!("pec-directory-{}.p7m", std::process::id()));
    fs::write(&file, enclosing(&keys.signer("indice@agid.test", NOW).unwrap(), ldif, now).unwrap()).unwrap();
    (file, keys.certificate())
}

/// What a refresh does with the bytes that came.
fn fetched(p7m: Vec<u8>, signer: &X509, in_force: &Path) {
    let opened = signed::open(p7m, std::slice::from_ref(signer), Moment::from_unix(NOW)).unwrap();
    let after = Directory::parse(&opened.ldif).unwrap();
    let before = read::directory(in_force).unwrap();
    assert!(much_smaller(&before, &after).is_none() && changes(&before, &after, 100).is_empty());
}

fn each(ask: impl Fn() -> usize) -> f64 {
    let start = cpu();
    assert_eq!(black_box(ask()), QUESTIONS / 2);
    (cpu() - start) * 1e9 / QUESTIONS as f64
}

fn domain(n: usize) -> String {
    // Spread over the alphabet, of the length that certified domains have.
    format!("pec.{:07x}-studio.example", n * 2_654_435 % 268_435_456)
}

fn ldif() -> String {
    let mut ldif = String::from("version: 1\n\ndn: o=postacert\nobjectclass: top\no: postacert\n");
    for p in 0..PROVIDERS {
        write!(
            ldif,
            "\ndn: providerName=Gestore {p},o=postacert\nobjectclass: provider\nproviderName: Gestore \
            {p}\nproviderCertificateHash: {p:040x}\nmailReceipt: ricevute@gestore{p}.test\n"
        )
        .unwrap();
        (p..DOMAINS)
            .step_by(PROVIDERS)
            .for_each(|n| writeln!(ldif, "managedDomains: {}", domain(n)).unwrap());
    }
    ldif
}

/// Seconds that this thread has had of the CPU.
fn cpu() -> f64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

/// Megabytes in memory now.
fn memory() -> f64 {
    status("VmRSS:")
}

fn status(what: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}
