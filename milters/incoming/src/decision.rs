//! What arrived? The table of RFC 6109 s. 2.2.2, as one function that reads from top to bottom.
//!
//! | signed, and the signature verifies | signer in the directory, From is the certificate's | contents | verdict |
//! | --- | --- | --- | --- |
//! | no | | | ordinary mail: refused |
//! | yes | no | | not from a provider: refused |
//! | yes | yes | daticert.xml unreadable, or at odds with header or envelope | damaged: refused |
//! | yes | yes | envelope of a sender whom that provider serves | taken in charge |
//! | yes | yes | receipt or notice | delivered |
//!
//! (What is refused here becomes an anomaly envelope in a later version.)

use bytes::Bytes;
use pec_core::address::Address;
use pec_core::clock::Moment;
use pec_core::daticert::{Daticert, Tipo};
use pec_core::directory::{Directory, Provider};
use pec_core::envelope::{claimed_type, contents, signed_parts};
use pec_core::header::Header;
use pec_core::smime::verify::TrustedCas;
use pec_milter::Reply;

/// A message that a provider of the directory has signed.
#[derive(Debug)]
pub enum Arrived {
    /// A correct busta di trasporto.
    Busta {
        /// Its certification data.
        daticert: Daticert,
        /// The original.
        postacert: Bytes,
        /// Who signed it.
        provider: Provider,
    },
    /// A correct receipt or notice.
    Ricevuta {
        /// Its certification data.
        daticert: Daticert,
        /// Who signed it.
        provider: Provider,
    },
}

/// Judges the message with this header and body that came from `reverse_path` (`None`: the null path).
pub fn decide(
    cas: &TrustedCas,
    directory: &Directory,
    header: &Header,
    body: &Bytes,
    reverse_path: Option<&Address>,
    now: Moment,
) -> Result<Arrived, Reply> {
    let Some(claimed) = claimed_type(header) else {
        return Err(Reply::refuse("550", "5.7.1", "this mailbox takes certified mail only, and the message is none"));
    };
    let damaged = |why: String| Reply::refuse("554", "5.7.1", format!("not taken as certified mail: {why}"));

    let parts = signed_parts(header, body).map_err(|e| damaged(e.to_string()))?;
    let signed_by = cas.verify(&body[parts.content.clone()], &parts.signature, now).map_err(|e| damaged(e.to_string()))?;
    let provider = [&signed_by.sha256, &signed_by.sha1].into_iter().find_map(|hash| directory.provider_of_certificate(hash));
    let Some(provider) = provider else {
        return Err(damaged(format!(
            "the certificate that signed ({}, SHA-1 {}) is not in the directory of providers",
            signed_by.common_name, signed_by.sha1
        )));
    };
    match header.addresses("From").as_deref() {
        Ok([from]) if signed_by.addresses.contains(&from.key()) => {}
        _ => {
            let from = header.text("From").unwrap_or_default();
            return Err(damaged(format!("the From: field ({from}) is not the address in the certificate ({})", signed_by.addresses.join(", "))));
        }
    }

    let contents = contents(body, parts.content, claimed).map_err(|e| damaged(e.to_string()))?;
    let daticert = contents.daticert;
    if claimed != Tipo::PostaCertificata {
        return Ok(Arrived::Ricevuta { daticert, provider: provider.clone() });
    }

    let Some(mittente) = Address::parse(&daticert.mittente) else {
        return Err(damaged(format!("the sender in daticert.xml ({}) is no mail address", daticert.mittente)));
    };
    if reverse_path != Some(&mittente) {
        let reverse_path = reverse_path.map_or("<>", Address::as_str);
        return Err(damaged(format!("it comes from {reverse_path}, and its daticert.xml is of {mittente}")));
    }
    if directory.provider_of_domain(&mittente.domain()) != Some(provider) {
        return Err(damaged(format!("{} does not serve the sender's domain, {}", provider.name, mittente.domain())));
    }
    let Some(postacert) = contents.postacert else { return Err(damaged("the envelope carries no postacert.eml".to_owned())) };
    Ok(Arrived::Busta { daticert, postacert, provider: provider.clone() })
}
