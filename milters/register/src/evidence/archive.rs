//! Members to a zip file, and back.
//!
//! Promise: what is written any zip program reads (members are stored as they are). What is read may have
//! been packed again by another program; a member that cannot be read is named, and the others are read all
//! the same.

use std::io::{Cursor, Read as _, Write as _};

use zip::result::ZipError;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::Members;

/// Bytes that a member may have: beyond any message, and short of a machine's memory.
const LARGEST: u64 = 1 << 30;

/// What was in a zip file.
#[derive(Debug, Default)]
pub struct Unpacked {
    /// What could be read.
    pub members: Members,
    /// What could not, and why.
    pub broken: Vec<(String, String)>,
}

/// The bytes of a zip file. The same members are the same bytes.
pub fn pack(members: &Members) -> Result<Vec<u8>, ZipError> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(zip::DateTime::default())
        .unix_permissions(0o644);
    for (name, content) in members {
        zip.start_file(name.as_str(), options)?;
        zip.write_all(content)?;
    }
    Ok(zip.finish()?.into_inner())
}

/// Reads a zip file. An error: it is none.
pub fn unpack(bytes: &[u8]) -> Result<Unpacked, ZipError> {
    let mut zip = ZipArchive::new(Cursor::new(bytes))?;
    let mut unpacked = Unpacked::default();
    if zip.has_duplicate_names() {
        // Which of them a program shows is anybody's guess.
        unpacked.broken.push(("the zip file".to_owned(), "has two members of one name".to_owned()));
    }
    for i in 0..zip.len() {
        let listed = zip
            .by_index_raw(i)
            .map(|file| (file.name().map(|name| name.into_owned()).unwrap_or_default(), file.is_dir()));
        let (name, is_directory) = listed.unwrap_or_else(|_| (format!("member {i}"), false));
        if is_directory {
            continue;
        }
        let mut content = Vec::new();
        let read = zip
            .by_index(i)
            .map_err(|e| e.to_string())
            .and_then(|file| file.take(LARGEST + 1).read_to_end(&mut content).map_err(|e| e.to_string()));
        match read {
            Ok(length) if length as u64 > LARGEST => unpacked.broken.push((name, "is too large".to_owned())),
            Ok(_) => drop(unpacked.members.insert(name, content)),
            Err(trouble) => unpacked.broken.push((name, format!("cannot be read: {trouble}"))),
        }
    }
    Ok(unpacked)
}
