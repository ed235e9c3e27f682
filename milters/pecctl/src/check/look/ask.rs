//! How others are asked: an answer, or the reason why there is none.

use std::fmt::Display;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// What a thing is, or why it could not be looked at.
pub(crate) type Known<T> = Result<T, String>;

/// An error as the reason why something is not known.
pub(crate) fn reason(error: impl Display) -> String {
    error.to_string()
}

/// What a command prints. If it fails: the last line of its complaint.
pub(crate) fn output(command: &mut Command) -> Known<String> {
    let output = command.output().map_err(|e| format!("{}: {e}", command.get_program().display()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned())
}

/// What a look-up command prints for many keys, which it reads from its standard input.
pub(crate) fn look_up(command: &mut Command, keys: &str) -> Known<String> {
    let mut run = || -> std::io::Result<String> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut stdin = child.stdin.take();
        let output = std::thread::scope(|scope| {
            // It answers while it reads: what waits for the one must not wait for the other. One that ends
            // early has said why.
            scope.spawn(|| stdin.take().map(|mut stdin| stdin.write_all(keys.as_bytes())));
            child.wait_with_output()
        })?;
        // 1: it knows none of them, or there is no such table, which is the same.
        match output.status.code() {
            Some(0 | 1) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            _ => Err(std::io::Error::other(output.status.to_string())),
        }
    };
    run().map_err(|e| format!("{}: {e}", command.get_program().display()))
}
