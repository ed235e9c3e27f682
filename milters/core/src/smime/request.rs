//! A certificate request (PKCS #10) for a provider's certificate: what the CA needs to make one of RFC 6109
//! s. 5.5's profile.

use const_oid::AssociatedOid as _;
use const_oid::db::rfc5912::SHA_256_WITH_RSA_ENCRYPTION;
use der::asn1::{Any, BitString, Ia5String, OctetString};
use der::{Decode as _, Encode as _};
use openssl::nid::Nid;
use openssl::pkey::{PKey, Public};
use openssl::x509::X509NameBuilder;
use x509_cert::attr::Attribute;
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{KeyUsage, KeyUsages, SubjectAltName};
use x509_cert::name::Name;
use x509_cert::request::{CertReq, CertReqInfo, ExtensionReq, Version};
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

use super::own::fits;
use super::sign::SignError;

/// Whom the certificate names. The order of the attributes is that of the providers in service.
#[derive(Debug, Clone)]
pub struct Subject<'a> {
    /// O: the directory's `providerName`.
    pub provider_name: &'a str,
    /// ST.
    pub state: Option<&'a str>,
    /// L.
    pub locality: Option<&'a str>,
    /// CN.
    pub common_name: &'a str,
    /// The address in the subjectAltName.
    pub address: &'a str,
}

impl Subject<'_> {
    fn name(&self) -> Result<Name, SignError> {
        let unfit =
            |e: openssl::error::ErrorStack| SignError::Key(format!("the subject cannot be written: {e}"));
        let mut name = X509NameBuilder::new().map_err(unfit)?;
        let entries = [
            (Nid::COUNTRYNAME, Some("IT")),
            (Nid::STATEORPROVINCENAME, self.state),
            (Nid::LOCALITYNAME, self.locality),
            (Nid::ORGANIZATIONNAME, Some(self.provider_name)),
            (Nid::COMMONNAME, Some(self.common_name)),
        ];
        for (nid, value) in entries {
            if let Some(value) = value {
                name.append_entry_by_nid(nid, value).map_err(unfit)?;
            }
        }
        Ok(Name::from_der(&name.build().to_der().map_err(unfit)?)?)
    }
}

/// The DER of a request for `public_key`, signed by its private half: `sign` is RSASSA-PKCS1-v1_5 with
/// SHA-256. A key that the programs would not sign with gets none.
pub fn request(
    subject: &Subject<'_>,
    public_key: &PKey<Public>,
    sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, SignError>,
) -> Result<Vec<u8>, SignError> {
    fits(public_key).map_err(|why| SignError::Key(format!("the key {why}")))?;
    let public_key = public_key.public_key_to_der().map_err(|e| SignError::Key(e.to_string()))?;
    let address = SubjectAltName(vec![GeneralName::Rfc822Name(Ia5String::new(subject.address)?)]);
    let extensions = ExtensionReq(vec![
        extension(KeyUsage::OID, true, KeyUsage(KeyUsages::DigitalSignature.into()).to_der()?)?,
        extension(SubjectAltName::OID, false, address.to_der()?)?,
    ]);
    let attributes = vec![Attribute::try_from(extensions)?].try_into()?;
    let info = CertReqInfo {
        version: Version::V1,
        subject: subject.name()?,
        public_key: SubjectPublicKeyInfoOwned::from_der(&public_key)?,
        attributes,
    };
    let algorithm =
        AlgorithmIdentifierOwned { oid: SHA_256_WITH_RSA_ENCRYPTION, parameters: Some(Any::null()) };
    let signature = BitString::from_bytes(&sign(&info.to_der()?)?)?;
    Ok(CertReq { info, algorithm, signature }.to_der()?)
}

fn extension(
    oid: const_oid::ObjectIdentifier,
    critical: bool,
    value: Vec<u8>,
) -> Result<Extension, der::Error> {
    Ok(Extension { extn_id: oid, critical, extn_value: OctetString::new(value)? })
}
