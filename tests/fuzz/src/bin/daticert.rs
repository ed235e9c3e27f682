//! daticert.xml: `pec_core::daticert`. The input is the file.
//!
//! Promise: what is read, written again, is read as the same data; nothing in it makes a terminal or a log
//! obey.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pec_core::daticert::{Daticert, MAX_BYTES};
use pec_core::identifier::is_identifier;

/// 1 January 1894, seconds from 1970: the time zone of today was two months old.
const ONE_TIME_FOR_ITALY: i64 = -2_398_291_200;

fuzz_target!(|input: &[u8]| {
    let read = match Daticert::parse(input) {
        Ok(read) => read,
        // A reason has one line, and does not repeat the file.
        Err(e) => return assert!(e.to_string().len() < 4096 + input.len(), "{e}"),
    };
    assert!(input.len() <= MAX_BYTES && !read.destinatari.is_empty() && is_identifier(&read.identificativo));
    let texts = [
        Some(&read.mittente),
        Some(&read.risposte),
        read.oggetto.as_ref(),
        Some(&read.gestore_emittente),
        read.msgid.as_ref(),
    ];
    let lists = read.destinatari.iter().map(|d| &d.indirizzo).chain(&read.ricezione);
    let all = texts.into_iter().flatten().chain(lists).chain(&read.consegna).chain(&read.errore_esteso);
    all.for_each(|text| assert!(!text.contains(char::is_control) && text.trim() == text, "{text:?}"));

    // Before, Italy's clocks stood at seconds that `zona` has no room for.
    if read.data.unix() < ONE_TIME_FOR_ITALY {
        return;
    }
    let written = read.to_xml();
    assert_eq!(Daticert::parse(written.as_bytes()), Ok(read), "{written}");
});
