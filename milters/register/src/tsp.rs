//! The forms of timestamps (RFC 3161), and what of their signature OpenSSL does not show.
//!
//! Promise: what OpenSSL takes can be read here. Where nothing depends on an element, it is passed over as it
//! came ([`Unread`], `AnyRef`): TSAs write BER here and there, and certificates of their own making.
//!
//! That is why SignedData and SignerInfo are not those of the crate cms: they read each certificate, list and
//! issuer that came along, and refuse all of it for a serial number that is too long, an attribute that is
//! there twice or an object identifier beyond the crate's bounds.

use std::marker::PhantomData;

use cms::signed_data::EncapsulatedContentInfo;
use der::asn1::{
    AnyRef, BitStringRef, GeneralizedTime, IntRef, ObjectIdentifier, OctetStringRef, SequenceRef, UintRef,
};
use der::{
    Decode, DecodeValue, EncodeValue, FixedTag, Header, Length, Reader, Sequence, SliceReader, Tag, Writer,
};
use openssl::hash::MessageDigest;
use x509_cert::spki::AlgorithmIdentifierRef;

pub(crate) const SHA_256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const SHA_384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
const SHA_512: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.3");
/// `id-ct-TSTInfo`.
pub(crate) const TST_INFO: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.1.4");
/// `id-aa-signingCertificate` (RFC 2634).
const SIGNING_CERTIFICATE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.2.12");
/// `id-aa-signingCertificateV2` (RFC 5035).
const SIGNING_CERTIFICATE_V2: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.2.47");

/// An element that has the tag of `T`, with the bytes that came, whether or not they are DER.
pub(crate) struct Unread<'a, T>(&'a [u8], PhantomData<T>);

impl<'a, T> Unread<'a, T> {
    /// The bytes.
    pub(crate) fn value(&self) -> &'a [u8] {
        self.0
    }
}

impl<T: FixedTag> FixedTag for Unread<'_, T> {
    const TAG: Tag = T::TAG;
}

impl<'a, T> DecodeValue<'a> for Unread<'a, T> {
    fn decode_value<R: Reader<'a>>(reader: &mut R, header: Header) -> der::Result<Self> {
        Ok(Self(reader.read_slice(header.length)?, PhantomData))
    }
}

impl<T> EncodeValue for Unread<'_, T> {
    fn value_len(&self) -> der::Result<Length> {
        self.0.len().try_into()
    }

    fn encode_value(&self, writer: &mut impl Writer) -> der::Result<()> {
        writer.write(self.0)
    }
}

/// RFC 3161 s. 2.4.1, as far as we ask: SHA-256, a nonce, and the TSA's certificate.
#[derive(Sequence)]
pub(crate) struct TimeStampReq<'a> {
    version: u8,
    imprint: MessageImprint<'a>,
    nonce: UintRef<'a>,
    with_certificate: bool,
}

impl<'a> TimeStampReq<'a> {
    pub(crate) fn of(digest: &'a [u8; 32], nonce: &'a [u8; 8]) -> der::Result<Self> {
        let algorithm = AlgorithmIdentifierRef { oid: SHA_256, parameters: Some(AnyRef::NULL) };
        let imprint = MessageImprint { algorithm, hash: OctetStringRef::new(digest)?.into() };
        Ok(Self { version: 1, imprint, nonce: UintRef::new(nonce)?, with_certificate: true })
    }
}

#[derive(Sequence)]
pub(crate) struct MessageImprint<'a> {
    pub(crate) algorithm: AlgorithmIdentifierRef<'a>,
    pub(crate) hash: AnyRef<'a>,
}

/// RFC 3161 s. 2.4.2.
#[derive(Sequence)]
pub(crate) struct TimeStampResp<'a> {
    pub(crate) status: PkiStatusInfo<'a>,
    /// A CMS signature over [`TstInfo`].
    pub(crate) token: Option<AnyRef<'a>>,
}

pub(crate) const GRANTED: u8 = 0;
pub(crate) const GRANTED_WITH_MODS: u8 = 1;

#[derive(Sequence)]
pub(crate) struct PkiStatusInfo<'a> {
    pub(crate) status: u8,
    texts: Option<Vec<AnyRef<'a>>>,
    fail_info: Option<Unread<'a, BitStringRef<'a>>>,
}

impl PkiStatusInfo<'_> {
    /// What it says to somebody who reads it.
    pub(crate) fn words(&self) -> String {
        let texts = self.texts.iter().flatten();
        let words: Vec<_> = texts.map(|text| String::from_utf8_lossy(text.value())).collect();
        format!("status {} {}", self.status, words.join(", ")).trim_end().to_owned()
    }
}

/// RFC 3161 s. 2.4.2.
#[derive(Sequence)]
pub(crate) struct TstInfo<'a> {
    version: AnyRef<'a>,
    policy: AnyRef<'a>,
    pub(crate) imprint: MessageImprint<'a>,
    serial_number: AnyRef<'a>,
    /// GeneralizedTime. That of the crate der has no fractions of a second, which RFC 3161 allows.
    pub(crate) gen_time: Unread<'a, GeneralizedTime>,
    accuracy: Option<SequenceRef<'a>>,
    ordering: Option<Unread<'a, bool>>,
    pub(crate) nonce: Option<Unread<'a, IntRef<'a>>>,
    /// What is tagged may be passed over as a sequence, whatever it is.
    #[asn1(context_specific = "0", tag_mode = "IMPLICIT", optional = "true")]
    tsa: Option<SequenceRef<'a>>,
    #[asn1(context_specific = "1", tag_mode = "IMPLICIT", optional = "true")]
    extensions: Option<SequenceRef<'a>>,
}

/// RFC 5652 s. 5.1.
#[derive(Sequence)]
pub(crate) struct SignedData<'a> {
    version: AnyRef<'a>,
    digest_algorithms: AnyRef<'a>,
    pub(crate) content: EncapsulatedContentInfo,
    #[asn1(context_specific = "0", tag_mode = "IMPLICIT", optional = "true")]
    certificates: Option<SequenceRef<'a>>,
    #[asn1(context_specific = "1", tag_mode = "IMPLICIT", optional = "true")]
    crls: Option<SequenceRef<'a>>,
    signers: AnyRef<'a>,
}

impl<'a> SignedData<'a> {
    /// The hash of the first signer's certificate, in the attributes that are signed.
    pub(crate) fn signing_certificate(&self) -> der::Result<Option<(MessageDigest, &'a [u8])>> {
        let signer: SignerInfo<'_> = first(self.signers.value())?;
        for attribute in signer.signed_attributes.unwrap_or_default() {
            if ![SIGNING_CERTIFICATE, SIGNING_CERTIFICATE_V2].contains(&attribute.kind) {
                continue;
            }
            let certificates = first::<SigningCertificate<'_>>(attribute.values.value())?.certificates;
            let named: EssCertId<'_> = first(certificates.value())?;
            let algorithm = match named.algorithm {
                _ if attribute.kind == SIGNING_CERTIFICATE => Some(MessageDigest::sha1()),
                None => Some(MessageDigest::sha256()),
                Some(algorithm) => digest_of(algorithm.oid),
            };
            if let Some(algorithm) = algorithm {
                return Ok(Some((algorithm, named.hash.as_bytes())));
            }
        }
        Ok(None)
    }
}

/// RFC 5652 s. 5.3.
#[derive(Sequence)]
struct SignerInfo<'a> {
    version: AnyRef<'a>,
    sid: AnyRef<'a>,
    digest_algorithm: AnyRef<'a>,
    #[asn1(context_specific = "0", tag_mode = "IMPLICIT", optional = "true")]
    signed_attributes: Option<Vec<Attribute<'a>>>,
    signature_algorithm: AnyRef<'a>,
    signature: AnyRef<'a>,
    #[asn1(context_specific = "1", tag_mode = "IMPLICIT", optional = "true")]
    unsigned_attributes: Option<SequenceRef<'a>>,
}

#[derive(Sequence)]
struct Attribute<'a> {
    kind: ObjectIdentifier,
    values: AnyRef<'a>,
}

/// RFC 2634 s. 5.4, RFC 5035 s. 3.
#[derive(Sequence)]
struct SigningCertificate<'a> {
    certificates: AnyRef<'a>,
    policies: Option<SequenceRef<'a>>,
}

/// The newer form, ESSCertIDv2; the older one is the same without an algorithm, and always SHA-1.
#[derive(Sequence)]
struct EssCertId<'a> {
    algorithm: Option<AlgorithmIdentifierRef<'a>>,
    hash: OctetStringRef<'a>,
    issuer_serial: Option<SequenceRef<'a>>,
}

/// The first element of several.
fn first<'a, T: Decode<'a>>(elements: &'a [u8]) -> der::Result<T> {
    T::decode(&mut SliceReader::new(elements)?)
}

fn digest_of(algorithm: ObjectIdentifier) -> Option<MessageDigest> {
    match algorithm {
        SHA_256 => Some(MessageDigest::sha256()),
        SHA_384 => Some(MessageDigest::sha384()),
        SHA_512 => Some(MessageDigest::sha512()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use der::Encode as _;

    use super::*;

    fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let value = parts.concat();
        let length = u8::try_from(value.len()).unwrap();
        [if length < 0x80 { vec![tag, length] } else { vec![tag, 0x81, length] }, value].concat()
    }

    fn sha_256() -> Vec<u8> {
        element(0x30, &[&SHA_256.to_der().unwrap(), &[0x05, 0x00]])
    }

    #[test]
    fn rfc3161_2_4_1_a_request_asks_for_the_certificate() {
        let (digest, nonce) = ([0xab; 32], [0x41, 0, 1, 2, 3, 4, 5, 6]);
        let request = TimeStampReq::of(&digest, &nonce).unwrap().to_der().unwrap();
        let imprint = element(0x30, &[&sha_256(), &element(0x04, &[&digest])]);
        let rest = [element(0x02, &[&nonce]), vec![0x01, 0x01, 0xff]].concat();
        assert_eq!(request, element(0x30, &[&[0x02, 0x01, 0x01], &imprint, &rest]));
    }

    #[test]
    fn a_tst_info_need_not_be_der_where_nothing_depends_on_it() {
        let policy = element(0x06, &[&[0x69], &[0xff; 45], &[0x7f]]);
        let imprint = element(0x30, &[&sha_256(), &element(0x04, &[&[0xab; 32]])]);
        let time = element(0x18, &[b"20261118120001.25Z"]);
        let (ordering, nonce) = ([0x01, 0x01, 0x01], element(0x02, &[&[0x00, 0x05]]));
        let tsa = element(0xa0, &[b"whoever"]);
        let head = [&[0x02, 0x01, 0x01], &policy[..], &imprint, &[0x02, 0x02, 0x00, 0x01], &time].concat();
        let all = element(0x30, &[&head, &ordering, &nonce, &tsa]);
        let info = TstInfo::from_der(&all).unwrap();
        assert_eq!(info.gen_time.value(), b"20261118120001.25Z");
        assert_eq!(info.nonce.map(|nonce| nonce.value()), Some(&[0x00, 0x05][..]));
        let least = element(0x30, &[&head]);
        assert!(TstInfo::from_der(&least).unwrap().nonce.is_none());
    }

    #[test]
    fn who_signed_is_read_whatever_came_along() {
        let set = |parts: &[&[u8]]| element(0x31, parts);
        let odd = element(0x30, &[b"no certificate"]);
        let named = element(0x30, &[&element(0x30, &[&element(0x30, &[&element(0x04, &[b"hash"])])])]);
        let attribute = |kind: ObjectIdentifier| element(0x30, &[&kind.to_der().unwrap(), &set(&[&named])]);
        let other = element(0x30, &[&TST_INFO.to_der().unwrap(), &set(&[])]);
        let digest_of_the_first = |attributes: &[&[u8]]| {
            let signer = element(
                0x30,
                &[
                    &[0x02, 0x01, 0x09],
                    &odd,
                    &sha_256(),
                    &element(0xa0, attributes),
                    &sha_256(),
                    &element(0x04, &[]),
                ],
            );
            let content = element(0x30, &[&TST_INFO.to_der().unwrap()]);
            let along = element(0xa0, &[&odd, &odd]);
            let data = element(0x30, &[&[0x02, 0x01, 0x09], &set(&[]), &content, &along, &set(&[&signer])]);
            let data = SignedData::from_der(&data).unwrap();
            data.signing_certificate().unwrap().map(|(algorithm, hash)| (algorithm.size(), hash.to_vec()))
        };
        let (old, new) = (attribute(SIGNING_CERTIFICATE), attribute(SIGNING_CERTIFICATE_V2));
        assert_eq!(digest_of_the_first(&[&other, &other, &new, &old]), Some((32, b"hash".to_vec())));
        assert_eq!(digest_of_the_first(&[&old, &new]), Some((20, b"hash".to_vec())));
        assert_eq!(digest_of_the_first(&[&other]), None);
    }
}
