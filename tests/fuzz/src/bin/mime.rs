//! A message: `pec_core::header`, `mime`, `breve` and `attachments`. The input is the message.
//!
//! Promise: a header comes back as the bytes that went in; parts lie in the message, in order, and do not
//! overlap; a brief receipt keeps the header and all that is no attachment's; what is found is bounded.
#![no_main]

use std::collections::HashSet;
use std::ops::Range;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pec_core::attachments::blocked;
use pec_core::breve::breve;
use pec_core::header::Header;
use pec_core::mime::{MOST_PARTS, decoded, header_end, is_encoded, part, split, walk, walk_attached};
use pec_fuzz::{has_crlf_lines, message};

static KINDS: LazyLock<HashSet<String>> =
    LazyLock::new(|| ["exe", "js", "lnk", "class", "chm", "hlp", "pst", "com"].map(str::to_owned).into());

/// Parts lie in the `length` bytes, one after the other.
fn in_order(parts: &[Range<usize>], length: usize) {
    let mut end = 0;
    for part in parts {
        assert!(
            end <= part.start && part.start <= part.end && part.end <= length,
            "{part:?} of {length} bytes, after {end}"
        );
        end = part.end;
    }
}

fn header_comes_back(section: &[u8]) {
    let Ok(header) = Header::parse(section) else { return };
    let bytes = header.to_bytes();
    assert_eq!(header.size(), bytes.len());
    assert_eq!(Header::parse(&bytes).as_ref(), Ok(&header));
    if has_crlf_lines(section) {
        assert_eq!(bytes, section);
    }
}

fn texts_can_be_shown(header: &Header) {
    assert!(header.subject().is_none_or(|subject| !subject.chars().any(char::is_control)));
    for field in header.fields() {
        assert!(!field.text().contains(['\r', '\n']));
    }
    let encoding = header.transfer_encoding();
    assert!(!encoding.contains(char::is_whitespace));
}

/// What is not about the content stays in the header of a brief form, and what comes before the first
/// attachment in the body.
fn brief_form(input: &[u8], header: &Header) {
    let original = bytes::Bytes::copy_from_slice(input);
    let brief = breve(&original).into_bytes();
    let Some((kept, _)) = message(&brief) else { panic!("the brief form is no message") };
    let others = |header: &Header| -> Vec<_> {
        header
            .fields()
            .iter()
            .filter(|f| !f.name.to_ascii_lowercase().starts_with("content-"))
            .cloned()
            .collect()
    };
    assert_eq!(others(&kept), others(header));
    assert_eq!(breve(&original).into_bytes(), brief, "the same original gives the same bytes");
    // An attachment's part becomes one of a few lines, under a name that was there.
    assert!(brief.len() <= input.len() * 20 + 4096, "{} bytes became {}", input.len(), brief.len());
}

fuzz_target!(|input: &[u8]| {
    if let Some((end, start)) = header_end(input) {
        assert!(end <= start && start <= input.len());
        header_comes_back(&input[..end]);
    }
    let Some((header, body)) = message(input) else { return };
    texts_can_be_shown(&header);

    let boundary = header.content_type().and_then(|m| m.attribute("boundary").map(str::to_owned));
    if let Some(boundary) = boundary
        && let Ok(parts) = split(body, &boundary, MOST_PARTS)
    {
        in_order(&parts, body.len());
        for range in parts {
            let Ok(part) = part(body, range.clone()) else { continue };
            assert!(range.start <= part.body.start && part.body.end == range.end);
            assert!(
                decoded(&part, body).is_ok_and(|decoded| decoded.len() <= part.body.len())
                    || is_encoded(&part.header)
            );
        }
    }

    let mut leaves = Vec::new();
    let walked = walk(&header, body, |_, range| leaves.push(range));
    in_order(&leaves, body.len());
    assert!(leaves.len() <= MOST_PARTS + 1);
    let mut attached = 0;
    let _ = walk_attached(input, |_, _| attached += 1);
    assert!(attached <= MOST_PARTS + 1);
    assert!(walked.is_err() || !leaves.is_empty(), "every message has a leaf");

    if let Ok(found) = blocked(&header, body, &KINDS) {
        assert!(walked.is_ok() && found.len() <= 20);
        for found in found {
            assert!(found.name.chars().count() <= 200);
            assert!(
                !found.italiano().contains(char::is_control) && !found.to_string().contains(char::is_control)
            );
        }
    } else {
        assert!(walked.is_err());
    }
    brief_form(input, &header);
});
