//! pec-token: holds one session with a PKCS#11 token for the program that started it, and signs what that one
//! asks for.
//!
//! Nobody starts it by hand. Its standard input is a socket, on which the frames of [`pec_token::wire`] go
//! both ways. It ends when the other side does, and after anything that went wrong: a new process begins with
//! a library in its first state.

mod session;

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use pec_core::smime::pkcs11::Pkcs11Uri;
use pec_token::wire;

use crate::session::{Session, Trouble};

/// Holds a session with a PKCS#11 token for the PEC program that started it.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The vendor's library (pec_pkcs11_module).
    module: PathBuf,
    /// The file with the PIN (pec_pkcs11_pin_file).
    pin_file: PathBuf,
    /// The key (pec_signing_key).
    key: Pkcs11Uri,
    /// Make the key first, of so many bits.
    #[arg(long, value_name = "BITS")]
    make: Option<u32>,
    /// The key is one of Ed25519 (pec_register_key), not of RSA.
    #[arg(long)]
    ed25519: bool,
}

#[allow(clippy::print_stderr)]
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match socket() {
        Ok(socket) => match serve(&arguments, &socket) {
            Ok(()) => ExitCode::SUCCESS,
            // Nobody reads the answer any more.
            Err(_) => ExitCode::FAILURE,
        },
        Err(_) => {
            eprintln!("pec-token: is started by the programs that sign, not by hand");
            ExitCode::from(64)
        }
    }
}

fn socket() -> io::Result<UnixStream> {
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    socket.peer_addr()?;
    Ok(socket)
}

fn serve(arguments: &Arguments, socket: &UnixStream) -> io::Result<()> {
    let session = match Session::open(
        &arguments.module,
        &arguments.pin_file,
        &arguments.key,
        arguments.make,
        arguments.ed25519,
    ) {
        Ok(session) => session,
        Err(trouble) => return say(socket, &trouble),
    };
    wire::write(socket, wire::DONE, session.public_key())?;
    loop {
        let data = match wire::read(socket) {
            Ok((wire::SIGN, data)) => data,
            Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(e) => return Err(e),
        };
        match session.sign(&data) {
            Ok(signature) => wire::write(socket, wire::DONE, &signature)?,
            Err(trouble) => return say(socket, &trouble),
        }
    }
}

fn say(socket: &UnixStream, trouble: &Trouble) -> io::Result<()> {
    let (letter, words) = match trouble {
        Trouble::Away(words) => (wire::AWAY, words),
        Trouble::Wrong(words) => (wire::WRONG, words),
        Trouble::PinRefused(words) => (wire::PIN_REFUSED, words),
    };
    wire::write(socket, letter, words.as_bytes())
}
