//! Which provider of the directory has signed something (RFC 6109 s. 2.2.2, "signature origin").
//!
//! Promise: signature and chain first, then the directory, then the revocation lists: nobody but a provider
//! waits for one.

use super::Directory;
use super::speaker::Speaker;
use crate::clock::Moment;
use crate::smime::verify::{SignedBy, TrustedCas, VerifyError};

/// Why no provider of the directory has signed something.
#[derive(Debug)]
pub enum NoSigner {
    /// The signature is not to be believed, or nobody can say now.
    NotBelieved(VerifyError),
    /// It is to be believed, and its certificate is in no record.
    Unknown(SignedBy),
}

impl From<VerifyError> for NoSigner {
    fn from(error: VerifyError) -> Self {
        Self::NotBelieved(error)
    }
}

impl Directory {
    /// Who signed `content`, and the provider with that certificate, as of `at`. Nobody else's mail is to
    /// wait for a revocation list: those are asked last.
    pub fn signer(
        &self,
        cas: &TrustedCas,
        content: &[u8],
        signature: &[u8],
        at: Moment,
    ) -> Result<(SignedBy, Speaker), NoSigner> {
        let signed_by = cas.signed_by(content, signature, at)?;
        let Some(speaker) = Speaker::new(self, &signed_by) else { return Err(NoSigner::Unknown(signed_by)) };
        cas.not_revoked(&signed_by, at)?;
        Ok((signed_by, speaker))
    }
}
