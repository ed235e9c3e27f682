//! A PKCS#11 token: SoftHSM2, reached as a vendor's HSM is, by the path of its library.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pec_host::parameters::{Pkcs11, Token};

use crate::pki::Keys;

/// SoftHSM's library, as Debian installs it.
pub const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";

/// The user PIN of every token here.
pub const PIN: &str = "4711-token-pin";

/// A directory of tokens of its own.
pub struct SoftHsm {
    directory: PathBuf,
}

impl SoftHsm {
    /// No tokens yet, below `directory`.
    pub fn new(directory: &Path) -> Self {
        let hsm = Self { directory: directory.join("softhsm") };
        fs::create_dir_all(hsm.tokens()).unwrap();
        fs::write(
            hsm.configuration(),
            format!(
                "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
                hsm.tokens().display()
            ),
        )
        .unwrap();
        hsm.set_pin(PIN);
        hsm
    }

    /// Where the tokens lie; moved away, they are pulled.
    pub fn tokens(&self) -> PathBuf {
        self.directory.join("tokens")
    }

    /// A file that a library which wraps SoftHSM's looks for or writes.
    pub fn tap(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn configuration(&self) -> PathBuf {
        self.directory.join("softhsm2.conf")
    }

    /// What the file with the PIN says.
    pub fn set_pin(&self, pin: &str) {
        let file = self.pin_file();
        fs::write(&file, format!("{pin}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// The file with the PIN.
    pub fn pin_file(&self) -> PathBuf {
        self.directory.join("pin")
    }

    /// A new token.
    pub fn new_token(&self, label: &str) {
        self.run(&["--init-token", "--free", "--label", label, "--so-pin", "so-pin-4711", "--pin", PIN]);
    }

    /// Puts a provider's key onto a token.
    pub fn import(&self, keys: &Keys, token: &str, label: &str, id: &str) {
        let file = keys.key_file.to_str().unwrap();
        self.run(&["--import", file, "--token", token, "--label", label, "--id", id, "--pin", PIN]);
    }

    fn run(&self, arguments: &[&str]) {
        let output =
            Command::new("softhsm2-util").args(arguments).env("SOFTHSM2_CONF", self.configuration()).output();
        let output = output.expect("softhsm2-util is needed, from Debian's package softhsm2");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// The token as the parameters name it, through `program`, the executable of pec-token.
    pub fn token(&self, program: &Path, uri: &str) -> Token {
        // SoftHSM finds its tokens by a variable of its process, and a library that wraps it its orders.
        let wrapper = self.directory.join("pec-token");
        let (configuration, tap) = (self.configuration(), &self.directory);
        let script = format!(
            "export SOFTHSM2_CONF={} PEC_TAP={}\nexec {}",
            configuration.display(),
            tap.display(),
            program.display()
        );
        fs::write(&wrapper, format!("#!/bin/sh\n{script} \"$@\"\n")).unwrap();
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
        Token {
            uri: uri.parse().unwrap(),
            module: MODULE.into(),
            pin_file: self.pin_file(),
            time_limit: Duration::from_secs(20),
            program: wrapper,
        }
    }
}

/// How the programs reach this token.
pub fn reached(token: Token) -> Pkcs11 {
    Pkcs11 {
        module: Some(token.module),
        pin_file: Some(token.pin_file),
        time_limit: token.time_limit,
        program: token.program,
        main_cf: "main.cf".to_owned(),
    }
}
