//! When a signature says that it was made (signingTime, RFC 5652 s. 11.3): its signer's word, which the
//! signature covers.

use cms::signed_data::SignerInfos;
use const_oid::ObjectIdentifier;
use const_oid::db::rfc5911::ID_SIGNING_TIME;
use der::asn1::AnyRef;
use der::{Decode as _, Encode as _, Reader as _, SliceReader};
use openssl::pkcs7::{Pkcs7, Pkcs7Ref};
use x509_cert::time::Time;

use crate::clock::Moment;

/// The same of a signature that is not read yet. It may be no signature, or a false one: that is for
/// [`super::verify`].
pub fn signed_at(signature: &[u8]) -> Option<Moment> {
    super::walk::walk(signature).ok()?;
    signing_time(&*Pkcs7::from_der(signature).ok()?).ok()?
}

/// The latest time at which a signer says to have signed. What the signature says besides is not copied: the
/// content can be large.
pub(crate) fn signing_time(pkcs7: &Pkcs7Ref) -> Result<Option<Moment>, String> {
    let trouble = |e: der::Error| format!("its signature cannot be read: {e}");
    // Written again: what came may be in BER.
    let der = pkcs7.to_der().map_err(|e| e.to_string())?;
    let mut latest = None;
    let signers = signer_infos(&der).map_err(trouble)?;
    for attribute in
        signers.0.iter().filter_map(|signer| signer.signed_attrs.as_ref()).flat_map(|all| all.iter())
    {
        if attribute.oid == ID_SIGNING_TIME
            && let Some(value) = attribute.values.get(0)
        {
            let time = value.to_der().and_then(|der| Time::from_der(&der)).map_err(trouble)?;
            let seconds = i64::try_from(time.to_unix_duration().as_secs()).map_err(|e| e.to_string())?;
            latest = latest.max(Some(Moment::from_unix(seconds)));
        }
    }
    Ok(latest)
}

/// The last element of SignedData (RFC 5652 s. 5.1).
fn signer_infos(der: &[u8]) -> der::Result<SignerInfos> {
    let outer = AnyRef::from_der(der)?;
    let mut reader = SliceReader::new(outer.value())?;
    ObjectIdentifier::decode(&mut reader)?;
    let explicit = AnyRef::decode(&mut reader)?;
    let signed_data = AnyRef::from_der(explicit.value())?;
    let mut reader = SliceReader::new(signed_data.value())?;
    let mut last = AnyRef::decode(&mut reader)?;
    while !reader.is_finished() {
        last = AnyRef::decode(&mut reader)?;
    }
    SignerInfos::from_der(&last.to_der()?)
}
