//! Address lists and the formal checks of a submission: `pec_core::address`, `pec_core::header`,
//! `pec_access::checks`. The input is a message; its `X-Rcpt:` fields are the recipients of the SMTP
//! envelope, and the sender is Anna.
//!
//! Promise: an address is one, and made of nothing but what stands in the field; a message without formal
//! exceptions is from its sender to whom `To:` and `Cc:` name; causes are one bounded line.
#![no_main]

use std::collections::HashSet;

use libfuzzer_sys::fuzz_target;
use pec_access::checks::{Limits, described, formal_exceptions};
use pec_core::address::Address;
use pec_fuzz::{is_drawn_from, message};
use pec_milter::{Recipient, Transaction};

/// The sender of the corpus.
const ANNA: &str = "anna@pec.alfa.test";

/// An address says the same of itself in every way.
fn is_sound(address: &Address) {
    let text = address.as_str();
    assert!(text.is_ascii() && text.len() <= 254 && !text.contains(|c: char| c.is_control() || c == ' '));
    assert_eq!(Address::parse(text).as_ref(), Some(address));
    assert_eq!(Address::from_path(&address.path()).map(|a| a.to_string()).as_deref(), Some(text));
    assert_eq!(Address::parse(&address.key()).as_ref(), Some(address));
    assert!(format!("{}@{}", address.local_part(), address.domain()).eq_ignore_ascii_case(text));
}

fuzz_target!(|input: &[u8]| {
    let Some((header, body)) = message(input) else { return };
    for name in ["From", "To", "Cc", "Reply-To"] {
        let Ok(addresses) = header.addresses(name) else { continue };
        let fields: Vec<u8> = header.all(name).flat_map(|f| f.value.clone()).collect();
        for address in &addresses {
            is_sound(address);
            assert!(
                is_drawn_from(address.as_str(), &fields),
                "{address} is not in {:?}",
                String::from_utf8_lossy(&fields)
            );
        }
        assert!(addresses.len() <= fields.len());
    }

    let mut transaction = Transaction::new(&format!("<{ANNA}>"));
    for field in header.fields() {
        if field.is("X-Rcpt") {
            transaction.recipients.push(Recipient::new(&field.text()));
        } else {
            // A milter gets LF for each fold; a CR that ends no line stays.
            let is_fold = |at: usize| field.value.get(at..at + 2) == Some(b"\r\n");
            let value: Vec<u8> =
                field.value.iter().enumerate().filter(|(at, _)| !is_fold(*at)).map(|(_, &b)| b).collect();
            transaction.push_field(field.name.as_bytes(), &value);
        }
    }
    let (middle, end) = body.split_at(body.len() / 2);
    transaction.push_body(bytes::Bytes::copy_from_slice(middle));
    transaction.push_body(bytes::Bytes::copy_from_slice(end));
    transaction.finish();

    let Some(anna) = Address::parse(ANNA) else { return };
    let causes = formal_exceptions(&transaction, &anna, Limits { total_size: 100_000, recipients: 5 });
    let (italian, english) = described(&causes);
    for words in [&italian, &english] {
        assert!(words.len() < 20_000 && !words.contains(char::is_control), "{words:?}");
        assert_eq!(words.is_empty(), causes.is_empty());
    }
    if causes.is_empty() {
        let header = &transaction.header;
        let list = |name: &str| header.addresses(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(list("From"), [anna]);
        let named: HashSet<String> = list("To").iter().chain(&list("Cc")).map(Address::key).collect();
        let goes: HashSet<String> =
            transaction.recipients.iter().filter_map(|r| r.address.as_ref()).map(Address::key).collect();
        assert_eq!(named, goes);
    }
});
