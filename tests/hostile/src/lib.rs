//! Messages that mean harm or make no sense, each with what has to become of it.
//!
//! Promise: what is expected was derived from RFC 6109, RFC 5322, RFC 2045 and the choices in
//! docs/choices.md, not from what the programs do. [`submissions`] are for the Access Point, [`arrivals`] for
//! the Incoming Point; `tests/` gives them to the real milters.

pub mod arrivals;
pub mod forge;
pub mod submissions;

pub use pec_test_support::clamd::{ENDLESS as SCANNER_GIVES_UP, VIRUS};

/// `0`, `1`, `2` ... between two texts.
pub fn numbered(before: &str, after: &str, count: usize) -> Vec<String> {
    (0..count).map(|i| format!("{before}{i}{after}")).collect()
}

/// A file in a zip archive, by the fields of its records (APPNOTE.TXT 4.3).
#[derive(Clone, Default)]
pub struct Zip {
    /// Its name.
    pub name: String,
    /// Its name, where it is no text.
    pub raw_name: Option<Vec<u8>>,
    /// Its bytes as they lie in the archive.
    pub bytes: Vec<u8>,
    /// 0 stored, 8 deflated.
    pub method: u16,
    /// Bit 0: encrypted.
    pub flags: u16,
    /// The extra field of the central record.
    pub extra: Vec<u8>,
    /// What the central record says of where the file is, if not the truth.
    pub offset: Option<u32>,
}

impl Zip {
    /// As it is.
    pub fn stored(name: &str, content: &[u8]) -> Self {
        Self { name: name.to_owned(), bytes: content.to_vec(), ..Self::default() }
    }

    /// Deflated.
    pub fn packed(name: &str, content: &[u8]) -> Self {
        Self { method: 8, ..Self::stored(name, &miniz_oxide::deflate::compress_to_vec(content, 6)) }
    }
}

/// A zip archive. Files with the same bytes at a given offset are written once.
pub fn zip_of(files: &[Zip]) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for (i, file) in files.iter().enumerate() {
        let name = file.raw_name.clone().unwrap_or_else(|| file.name.clone().into_bytes());
        let lengths = |extra: &[u8]| {
            [
                u16::try_from(name.len()).unwrap().to_le_bytes(),
                u16::try_from(extra.len()).unwrap().to_le_bytes(),
            ]
            .concat()
        };
        let size = u32::try_from(file.bytes.len()).unwrap().to_le_bytes();
        let offset = u32::try_from(archive.len()).unwrap();
        let common =
            [&[20, 0][..], &file.flags.to_le_bytes(), &file.method.to_le_bytes(), &[0; 8], &size, &size]
                .concat();
        if i == 0 || file.offset != Some(0) {
            archive.extend([b"PK\x03\x04", &common[..], &lengths(b""), &name, &file.bytes].concat());
        }
        let offset = file.offset.unwrap_or(offset).to_le_bytes();
        directory.extend(
            [b"PK\x01\x02\x14\0", &common[..], &lengths(&file.extra), &[0; 10], &offset, &name, &file.extra]
                .concat(),
        );
    }
    let (at, length) = (u32::try_from(archive.len()).unwrap(), u32::try_from(directory.len()).unwrap());
    let count = u16::try_from(files.len()).unwrap_or(u16::MAX).to_le_bytes();
    archive.extend(directory);
    archive.extend(
        [b"PK\x05\x06\0\0\0\0", &count[..], &count, &length.to_le_bytes(), &at.to_le_bytes(), &[0, 0]]
            .concat(),
    );
    archive
}
