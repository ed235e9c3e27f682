//! A CMS signature: `pec_core::smime::verify`. The input is the length of the signed content in two bytes
//! (the higher first), the content, the signature in BER; PEC_FUZZ_CA names the file of the CAs of the seeds,
//! beside which `crl` has their lists.
//!
//! Promise: who signed is known by what the directory knows; a signature is over these bytes and no others.
#![no_main]

use std::env;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use pec_core::clock::Moment;
use pec_core::smime::verify::{TooOld, TrustedCas};
use pec_host::crl_directory::CrlDirectory;
use pec_host::read;

/// `pec_test_support::pki::NOW`: the seeds' certificates are valid then.
const NOW: i64 = 1_795_000_000;

static CAS: LazyLock<TrustedCas> = LazyLock::new(|| {
    let file = env::var("PEC_FUZZ_CA").unwrap_or_else(|_| panic!("PEC_FUZZ_CA names no file of CAs"));
    let cas = read::trusted_cas(Path::new(&file)).unwrap_or_else(|e| panic!("{e}"));
    // Of what names no list here it is not known whether it is good.
    cas.asking(Arc::new(CrlDirectory::new(&Path::new(&file).with_file_name("crl"))), TooOld::Believe)
});

fuzz_target!(|input: &[u8]| {
    let [high, low, rest @ ..] = input else { return };
    let Some((content, signature)) = rest.split_at_checked(usize::from(u16::from_be_bytes([*high, *low])))
    else {
        return;
    };
    let now = Moment::from_unix(NOW);
    match CAS.verify(content, signature, now) {
        Ok(signer) => {
            let looks = CAS.looks();
            assert!(
                CAS.verify(content, signature, now).is_ok() && CAS.looks() == looks,
                "what was seen is remembered"
            );
            assert!(signer.sha1.len() == 40 && signer.sha256.len() == 64);
            assert!(signer.addresses.iter().all(|a| *a == a.to_ascii_lowercase()));
            assert!(
                CAS.verify(&[content, b"x"].concat(), signature, now).is_err(),
                "a signature over other bytes, too"
            );
            assert!(
                CAS.verify(content, signature, Moment::from_unix(0)).is_err(),
                "a certificate that was valid in 1970"
            );
        }
        Err(e) => assert!(!e.to_string().contains('\n')),
    }
});
