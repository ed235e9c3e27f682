//! Software that is not ours, which judges what we made.

use std::path::Path;
use std::process::Command;

use crate::pki::NOW;

/// The signed content of a message, if the openssl command finds its signature good as of [`NOW`]; its
/// complaint otherwise.
pub fn openssl_verify(message: &[u8], ca_file: &Path) -> Result<Vec<u8>, String> {
    let directory = tempfile::tempdir().unwrap();
    let (input, content) = (directory.path().join("message.eml"), directory.path().join("content"));
    std::fs::write(&input, message).unwrap();
    let output = Command::new("openssl")
        .args([
            "cms",
            "-verify",
            "-no-CApath",
            "-no-CAstore",
            "-purpose",
            "smimesign",
            "-attime",
            &NOW.to_string(),
        ])
        .arg("-in")
        .arg(&input)
        .arg("-CAfile")
        .arg(ca_file)
        .arg("-out")
        .arg(&content)
        .output()
        .expect("the openssl command is needed");
    if output.status.success() {
        Ok(std::fs::read(&content).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Whether xmllint finds the file valid against the DTD of RFC 6109 s. 4.4.
pub fn xmllint_valid(xml: &str) -> Result<(), String> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("daticert.xml");
    std::fs::write(&file, xml).unwrap();
    let dtd = Path::new(env!("CARGO_MANIFEST_DIR")).join("../verify/daticert.dtd");
    let output = Command::new("xmllint")
        .args(["--noout", "--dtdvalid"])
        .arg(&dtd)
        .arg(&file)
        .output()
        .expect("the xmllint command is needed");
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// Whether the openssl command finds a timestamp over `content` good; its complaint otherwise.
pub fn openssl_ts_verify(content: &[u8], response: &[u8], ca_file: &Path) -> Result<(), String> {
    let directory = tempfile::tempdir().unwrap();
    let (data, tsr) = (directory.path().join("data"), directory.path().join("tsr"));
    std::fs::write(&data, content).unwrap();
    std::fs::write(&tsr, response).unwrap();
    let mut command = Command::new("openssl");
    let output = command
        .args(["ts", "-verify"])
        .arg("-in")
        .arg(&tsr)
        .arg("-data")
        .arg(&data)
        .arg("-CAfile")
        .arg(ca_file)
        .output()
        .unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// Whether the openssl command finds a detached signature (DER) over `content` good as of [`NOW`]; its
/// complaint otherwise.
pub fn openssl_cms_verify(content: &[u8], signature: &[u8], ca_file: &Path) -> Result<(), String> {
    let directory = tempfile::tempdir().unwrap();
    let (data, p7s) = (directory.path().join("data"), directory.path().join("p7s"));
    std::fs::write(&data, content).unwrap();
    std::fs::write(&p7s, signature).unwrap();
    let mut command = Command::new("openssl");
    command.args([
        "cms",
        "-verify",
        "-binary",
        "-inform",
        "DER",
        "-purpose",
        "smimesign",
        "-attime",
        &NOW.to_string(),
        "-out",
        "/dev/null",
    ]);
    let output =
        command.arg("-in").arg(&p7s).arg("-content").arg(&data).arg("-CAfile").arg(ca_file).output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}
