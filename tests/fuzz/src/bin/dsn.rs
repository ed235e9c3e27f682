//! Postfix's delivery reports: `pec_core::dsn`. The input is the report.
//!
//! Promise: a report that is read is about somebody, and who that is stands in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pec_core::dsn::{Report, is_report};
use pec_fuzz::{is_drawn_from, message};

fuzz_target!(|input: &[u8]| {
    let Some((header, body)) = message(input) else { return };
    let is_one = is_report(&header);
    match Report::parse(&header, body) {
        Ok(report) => {
            assert!(!report.recipients.is_empty());
            for about in &report.recipients {
                assert!(is_drawn_from(about.recipient.as_str(), body), "{}", about.recipient);
                assert!(!about.status.contains(['\r', '\n']) && !about.diagnostic.contains(['\r', '\n']));
            }
            assert!(report.returned.is_none_or(|returned| returned.end <= body.len()));
            assert!(!is_one || header.content_type().is_some());
        }
        Err(e) => assert!(!e.to_string().contains('\n'), "{e}"),
    }
});
