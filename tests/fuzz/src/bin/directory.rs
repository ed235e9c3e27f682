//! The index of the providers: `pec_core::directory`. The input is the LDIF file.
//!
//! Promise: the same file gives the same directory; every record is one of a provider who can be written to;
//! an error is a line that an administrator can read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pec_core::directory::Directory;

fuzz_target!(|input: &[u8]| {
    let Ok(ldif) = std::str::from_utf8(input) else { return };
    match Directory::parse(ldif) {
        Ok(directory) => {
            let (providers, domains) = directory.size();
            assert!(providers > 0 && providers + domains <= ldif.lines().count());
            assert!(
                directory.records_of_certificate("").is_empty() && directory.records_of_domain("").is_empty()
            );
            for line in ldif.lines() {
                let value = line.split_once(':').map_or(line, |(_, value)| value.trim());
                let upper = value.to_ascii_uppercase();
                let records = directory.records_of_domain(value);
                assert_eq!(directory.records_of_domain(&upper), records);
                assert!(records.iter().all(|p| directory.record(&p.name, p.unit.as_deref()).is_some()));
                assert_eq!(directory.records_of_certificate(&upper), directory.records_of_certificate(value));
            }
            let mut kept = Directory::parse(ldif).unwrap_or_else(|e| panic!("{e}"));
            kept.keep(&directory).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(kept.size(), directory.size(), "nothing is missing that it has itself");
            let again = Directory::parse(ldif).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!((again.size(), again.conflicts()), (directory.size(), directory.conflicts()));
        }
        Err(e) => assert!(!e.contains('\n'), "{e}"),
    }
});
