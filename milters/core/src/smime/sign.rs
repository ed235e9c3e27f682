//! Making a CMS signature, detached or around what it signs, in the form of the deployed network: DER,
//! SHA-256, the chain included, signed attributes contentType, signingTime, messageDigest and
//! CMSAlgorithmProtection (RFC 5652, RFC 6211).

use cms::cert::{CertificateChoices, IssuerAndSerialNumber};
use cms::content_info::{CmsVersion, ContentInfo};
use cms::signed_data::{
    CertificateSet, EncapsulatedContentInfo, SignedData, SignerIdentifier, SignerInfo, SignerInfos,
};
use const_oid::ObjectIdentifier;
use const_oid::db::rfc5911::{ID_CONTENT_TYPE, ID_DATA, ID_MESSAGE_DIGEST, ID_SIGNED_DATA, ID_SIGNING_TIME};
use const_oid::db::rfc5912::{ID_SHA_256, SHA_256_WITH_RSA_ENCRYPTION};
use der::asn1::{Any, OctetString, SetOfVec};
use der::{Decode, Encode, Sequence};
use openssl::sha::sha256;
use x509_cert::Certificate;
use x509_cert::attr::Attribute;
use x509_cert::spki::AlgorithmIdentifierOwned;
use x509_cert::time::Time;

use crate::clock::Moment;

/// `id-aa-CMSAlgorithmProtection` (RFC 6211).
const ID_CMS_ALGORITHM_PROTECTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.52");

/// Why a signature was not made. Always temporary: nothing was sent, the mail waits.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The key did not sign, and somebody must see to it.
    #[error("the signing key does not sign: {0}")]
    Key(String),
    /// The token that holds the key does not answer now. It may answer again by itself.
    #[error("the signing key cannot be reached: {0}")]
    Away(String),
    /// The signature could not be put together.
    #[error("the signature cannot be encoded: {0}")]
    Encoding(#[from] der::Error),
}

/// A provider's certificate and the certificates above it, as they go into a signature.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The signer's certificate.
    pub certificate: Certificate,
    /// The issuers that are sent along, without the root.
    pub chain: Vec<Certificate>,
    /// SHA-256 over all of them in hexadecimal.
    pub fingerprint: String,
    /// The last moment at which the signer's certificate is valid.
    pub not_after: Moment,
}

/// Something that holds a provider's key: a file, a token.
pub trait Signer: Send + Sync {
    /// Whose key it is.
    fn identity(&self) -> &Identity;

    /// RSASSA-PKCS1-v1_5 with SHA-256 over `data`.
    fn sign(&self, data: &[u8]) -> Result<Vec<u8>, SignError>;

    /// Whether [`Signer::sign`] waits for something outside of this process, which may be slow.
    fn waits(&self) -> bool {
        false
    }
}

/// RFC 6211 s. 2: repeats the algorithms inside what is signed.
#[derive(Sequence)]
struct CmsAlgorithmProtection {
    digest: AlgorithmIdentifierOwned,
    #[asn1(context_specific = "1", tag_mode = "IMPLICIT")]
    signature: AlgorithmIdentifierOwned,
}

/// The DER of the signature over content with the SHA-256 `content_digest`, as of `moment`.
pub fn detached(
    signer: &dyn Signer,
    content_digest: &[u8; 32],
    moment: Moment,
) -> Result<Vec<u8>, SignError> {
    signed(signer, None, content_digest, moment)
}

/// The DER of a signed file (`.p7m`) with `content` inside, as of `moment`.
pub fn enclosing(signer: &dyn Signer, content: &[u8], moment: Moment) -> Result<Vec<u8>, SignError> {
    let inside = Any::encode_from(&OctetString::new(content)?)?;
    signed(signer, Some(inside), &sha256(content), moment)
}

fn signed(
    signer: &dyn Signer,
    econtent: Option<Any>,
    content_digest: &[u8; 32],
    moment: Moment,
) -> Result<Vec<u8>, SignError> {
    let identity = signer.identity();
    let digest_alg = AlgorithmIdentifierOwned { oid: ID_SHA_256, parameters: None };
    let signature_algorithm =
        AlgorithmIdentifierOwned { oid: SHA_256_WITH_RSA_ENCRYPTION, parameters: Some(Any::null()) };
    let protection =
        CmsAlgorithmProtection { digest: digest_alg.clone(), signature: signature_algorithm.clone() };
    let signed_attrs = SetOfVec::try_from(vec![
        attribute(ID_CONTENT_TYPE, &ID_DATA)?,
        attribute(ID_SIGNING_TIME, &Time::try_from(moment.utc())?)?,
        attribute(ID_MESSAGE_DIGEST, &OctetString::new(&content_digest[..])?)?,
        attribute(ID_CMS_ALGORITHM_PROTECTION, &protection)?,
    ])?;
    let signature = signer.sign(&signed_attrs.to_der()?)?;

    let certificate = &identity.certificate;
    let certificates =
        std::iter::once(certificate).chain(&identity.chain).cloned().map(CertificateChoices::Certificate);
    let signed_data = SignedData {
        version: CmsVersion::V1,
        digest_algorithms: SetOfVec::try_from(vec![digest_alg.clone()])?,
        encap_content_info: EncapsulatedContentInfo { econtent_type: ID_DATA, econtent },
        certificates: Some(CertificateSet(SetOfVec::try_from(certificates.collect::<Vec<_>>())?)),
        crls: None,
        signer_infos: SignerInfos(SetOfVec::try_from(vec![SignerInfo {
            version: CmsVersion::V1,
            sid: SignerIdentifier::IssuerAndSerialNumber(IssuerAndSerialNumber {
                issuer: certificate.tbs_certificate.issuer.clone(),
                serial_number: certificate.tbs_certificate.serial_number.clone(),
            }),
            digest_alg,
            signed_attrs: Some(signed_attrs),
            signature_algorithm,
            signature: OctetString::new(signature)?,
            unsigned_attrs: None,
        }])?),
    };
    Ok(ContentInfo { content_type: ID_SIGNED_DATA, content: Any::from_der(&signed_data.to_der()?)? }
        .to_der()?)
}

/// Whether a signature has the form of [`detached`] in every byte that it does not itself vouch for: nothing
/// can be changed in it without a trace, but the certificates that go with it.
pub fn is_our_form(signature: &[u8]) -> bool {
    let read = || -> Result<bool, der::Error> {
        let content_info = ContentInfo::from_der(signature)?;
        let signed_data: SignedData = content_info.content.decode_as()?;
        let [signer] = signed_data.signer_infos.0.as_slice() else { return Ok(false) };
        let digest_alg = AlgorithmIdentifierOwned { oid: ID_SHA_256, parameters: None };
        Ok(content_info.to_der()? == signature
            && content_info.content == Any::from_der(&signed_data.to_der()?)?
            && content_info.content_type == ID_SIGNED_DATA
            && signed_data.version == CmsVersion::V1
            && signed_data.digest_algorithms.as_slice() == std::slice::from_ref(&digest_alg)
            && signed_data.encap_content_info
                == EncapsulatedContentInfo { econtent_type: ID_DATA, econtent: None }
            && signed_data.crls.is_none()
            && signer.version == CmsVersion::V1
            && signer.digest_alg == digest_alg
            && signer.signature_algorithm
                == AlgorithmIdentifierOwned {
                    oid: SHA_256_WITH_RSA_ENCRYPTION,
                    parameters: Some(Any::null()),
                }
            && signer.signed_attrs.is_some()
            && signer.unsigned_attrs.is_none())
    };
    read().unwrap_or(false)
}

fn attribute(oid: ObjectIdentifier, value: &impl Encode) -> Result<Attribute, der::Error> {
    Ok(Attribute { oid, values: SetOfVec::try_from(vec![Any::from_der(&value.to_der()?)?])? })
}
