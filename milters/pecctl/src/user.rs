//! `pecctl user`: accounts in Dovecot's passwd-file, and how good their passwords must be.
//!
//! Promise: a password never stands in an argument, a log or the file; the file has its Argon2id hash. What
//! can be guessed is refused and why is said. The file changes as a whole or not at all, and keeps its owner
//! and mode.

use std::collections::HashSet;
use std::io::{self, BufRead as _, IsTerminal as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use argon2::password_hash::{PasswordHasher as _, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use pec_core::address::Address;
use pec_host::parameters::Settings;
use zxcvbn::{Score, zxcvbn};

use crate::edited::Edited;

/// Characters that a password has at least.
const SHORTEST: usize = 12;

/// And at most: more would only cost time at each login.
const LONGEST: usize = 256;

/// What a password must withstand: ten thousand million guesses, zxcvbn's best mark.
const STRENGTH: Score = Score::Four;

/// Memory in KiB and passes of Argon2id: OWASP's least, which Dovecot's auth process bears at each login.
const COST: (u32, u32) = (19_456, 2);

/// Characters of a password that we make: 59 letters and digits that nobody mixes up, to the power of 20.
const GENERATED: usize = 20;
const LETTERS: &[u8] = b"abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789-_";

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Add an account for a certified mailbox. The password is asked for, or read from a line of standard
    /// input.
    Add(Account),
    /// Give an account another password.
    Password(Account),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Account {
    /// The mailbox, which is the user name as well.
    address: String,

    /// Make a password and print it.
    #[arg(long)]
    generate: bool,

    /// Dovecot's passwd-file.
    #[arg(long, value_name = "FILE", default_value = "/etc/dovecot/users")]
    file: PathBuf,
}

pub(crate) fn run(config_directory: &Path, verb: &Verb) -> anyhow::Result<()> {
    let settings = Settings::read(config_directory)?;
    let (Verb::Add(account) | Verb::Password(account)) = verb;
    let address = Address::parse(&account.address)
        .with_context(|| format!("{:?} is no mail address", account.address))?
        .key();
    // What stands in the file as it is; Dovecot takes no others by itself (auth_username_chars).
    if !address.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_@".contains(&b)) {
        bail!("{address}: Dovecot's user names are of letters, digits, dots, hyphens and underscores");
    }
    let domain = address.rsplit('@').next().unwrap_or_default();
    if !settings.local_domains.contains(domain) {
        let mut domains: Vec<_> = settings.local_domains.iter().map(String::as_str).collect();
        domains.sort_unstable();
        bail!("{address}: {domain} is no domain of this provider; there are {}", domains.join(", "));
    }

    let passwd = PasswdFile::open(&account.file)?;
    let is_add = matches!(verb, Verb::Add(_));
    if passwd.users().contains(address.as_str()) == is_add {
        bail!(
            "{address}: {} in {}",
            if is_add { "is there already" } else { "is not" },
            account.file.display()
        );
    }
    let password = if account.generate { generated()? } else { typed()? };
    check_strength(&password, &[&address, &settings.provider_name, &settings.service_domain])
        .map_err(|why| anyhow::anyhow!("the password {why}"))?;
    let hash = format!("{{ARGON2ID}}{}", argon2id(&password)?);
    passwd.write(&address, &hash)?;
    if account.generate {
        println!("{password}");
    }
    Ok(())
}

/// Why a password is not good enough, if it is not. `about`: what everybody knows of its owner.
fn check_strength(password: &str, about: &[&str]) -> Result<(), String> {
    let length = password.chars().count();
    if !(SHORTEST..=LONGEST).contains(&length) {
        return Err(format!("has {length} characters; {SHORTEST} to {LONGEST} are allowed"));
    }
    if password.chars().any(char::is_control) {
        return Err("has control characters, which not every mail program can send".to_owned());
    }
    let known: Vec<&str> = about
        .iter()
        .flat_map(|text| text.split(|c: char| !c.is_alphanumeric()))
        .filter(|word| word.len() > 2)
        .chain(about.iter().copied())
        .collect();
    let entropy = zxcvbn(password, &known);
    if entropy.score() < STRENGTH {
        let why = entropy
            .feedback()
            .and_then(|f| f.warning())
            .map_or_else(|| "add another word or two, uncommon ones".to_owned(), |w| w.to_string());
        return Err(format!(
            "can be guessed within about 10^{:.0} tries: {why}",
            entropy.guesses_log10().ceil()
        ));
    }
    Ok(())
}

fn argon2id(password: &str) -> anyhow::Result<String> {
    let mut salt = [0; 16];
    openssl::rand::rand_bytes(&mut salt)?;
    let salt = SaltString::encode_b64(&salt).map_err(|e| anyhow::anyhow!("{e}"))?;
    let parameters = Params::new(COST.0, COST.1, 1, None).map_err(|e| anyhow::anyhow!("{e}"))?;
    let hash = Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters)
        .hash_password(password.as_bytes(), &salt);
    Ok(hash.map_err(|e| anyhow::anyhow!("{e}"))?.to_string())
}

/// A password that nobody chose.
fn generated() -> anyhow::Result<String> {
    let mut password = String::new();
    while password.len() < GENERATED {
        let mut byte = [0];
        openssl::rand::rand_bytes(&mut byte)?;
        // What is beyond the letters is drawn again, so that all are equally likely.
        password.extend(LETTERS.get(usize::from(byte[0] & 63)).map(|&b| char::from(b)));
    }
    Ok(password)
}

/// Typed twice at a terminal, or the first line of standard input.
fn typed() -> anyhow::Result<String> {
    if !io::stdin().is_terminal() {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).context("standard input")?;
        return Ok(line.trim_end_matches(['\r', '\n']).to_owned());
    }
    let first = rpassword::prompt_password("Password: ")?;
    if rpassword::prompt_password("The same again: ")? != first {
        bail!("the two passwords differ");
    }
    Ok(first)
}

/// Dovecot's passwd-file: a line `user:password:...` for each account.
struct PasswdFile(Edited);

impl PasswdFile {
    fn open(path: &Path) -> anyhow::Result<Self> {
        Ok(Self(Edited::open(path)?))
    }

    fn users(&self) -> HashSet<String> {
        self.0
            .text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(user, _)| user.to_lowercase())
            .collect()
    }

    /// The account has this password; what else its line says stays.
    fn write(&self, user: &str, hash: &str) -> anyhow::Result<()> {
        let mut lines: Vec<String> = self.0.text.lines().map(str::to_owned).collect();
        let is_users = |line: &&mut String| {
            line.split_once(':').is_some_and(|(name, _)| name.eq_ignore_ascii_case(user))
        };
        match lines.iter_mut().find(is_users) {
            Some(line) => {
                let rest = line.splitn(3, ':').nth(2).unwrap_or("::::").to_owned();
                *line = format!("{user}:{hash}:{rest}");
            }
            None => lines.push(format!("{user}:{hash}::::::")),
        }
        self.0.write(&(lines.join("\n") + "\n"), None)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;

    const ABOUT: [&str; 2] = ["anna.rossi@pec.alfa.test", "Alfa PEC S.p.A."];

    #[test]
    fn what_can_be_guessed_is_refused_with_the_reason() {
        for (password, why) in [
            ("Kx8!pq2", "has 7 characters; 12 to 256 are allowed"),
            ("password12345", "can be guessed within about 10^"),
            ("qwertyuiop123", "can be guessed within about 10^"),
            ("aaaaaaaaaaaaaaaa", "can be guessed within about 10^"),
            ("annarossi2026", "can be guessed within about 10^"),
            ("anna.rossi@pec.alfa.test", "can be guessed within about 10^"),
            ("zxq vbnm\tkwyt lk", "control characters"),
        ] {
            let refused = check_strength(password, &ABOUT).expect_err(password);
            assert!(refused.contains(why), "{password}: {refused}");
        }
        for password in
            ["corretto cavallo batteria graffetta", "Wq7-rTz_9mLk2p", "il gatto mangia ravioli a Vercelli"]
        {
            check_strength(password, &ABOUT).unwrap();
        }
    }

    #[test]
    fn what_we_make_is_good_and_never_the_same() {
        let made: HashSet<String> = (0..50).map(|_| generated().unwrap()).collect();
        assert_eq!(made.len(), 50);
        made.iter().for_each(|password| check_strength(password, &ABOUT).unwrap());
    }

    #[test]
    fn a_file_keeps_what_else_it_says() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        fs::write(
            &path,
            "# comment\nanna@x.test:{BLF-CRYPT}old:1:2::/home::userdb_quota_rule=*:storage=1G\n",
        )
        .unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        PasswdFile::open(&path).unwrap().write("anna@x.test", "{ARGON2ID}new").unwrap();
        let changed = fs::metadata(&path).unwrap().mtime();
        PasswdFile::open(&path).unwrap().write("bruno@x.test", "{ARGON2ID}b").unwrap();
        let expected = "# comment\nanna@x.test:{ARGON2ID}new:1:2::/home::userdb_quota_rule=*:storage=1G\nbruno@x.test:{ARGON2ID}b::::::\n";
        assert_eq!(fs::read_to_string(&path).unwrap(), expected);
        assert!(fs::metadata(&path).unwrap().mtime() > changed, "Dovecot sees each change");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(PasswdFile::open(&path).unwrap().users().len(), 2);
    }
}
