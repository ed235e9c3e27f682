//! A signed PEC message of another provider: `pec_core::envelope`. The input is the message.
//!
//! Promise: content and original lie in the message; what is read says what the header claims.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pec_core::daticert::Tipo;
use pec_core::envelope::{claimed_type, contents, signed_parts};
use pec_fuzz::message;

fuzz_target!(|input: &[u8]| {
    let Some((header, body)) = message(input) else { return };
    let claimed = claimed_type(&header);
    let body = Bytes::copy_from_slice(body);
    let Ok(parts) = signed_parts(&header, &body) else { return };
    assert!(parts.content.start <= parts.content.end && parts.content.end <= body.len());
    assert!(parts.signature.len() <= body.len());

    let claimed = claimed.unwrap_or(Tipo::PostaCertificata);
    let length = parts.content.len();
    let Ok(read) = contents(&body, parts.content, claimed) else { return };
    assert_eq!(read.daticert.tipo, claimed);
    assert!(claimed != Tipo::PostaCertificata || read.postacert.is_some());
    assert!(read.postacert.is_none_or(|postacert| postacert.len() <= length));
});
