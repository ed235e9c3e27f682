//! A CMS SignedData (RFC 5652 s. 5.1), looked through before OpenSSL reads it. OpenSSL bounds nothing: each
//! digest algorithm is one more filter through which the content goes, one call deep in the other.
//!
//! Promise: BER and DER are read in one pass, without recursion; work and memory are bounded by the limits
//! below; what exceeds them is an error that names the number and the limit. What OpenSSL makes of the rest is
//! for OpenSSL to say.

/// Bytes of a signature in a message. The largest with reason has a chain of long certificates and a
/// timestamp: some 30 kB.
pub const LENGTH: usize = 256 * 1024;
/// Elements in it. A certificate has about 150.
const ELEMENTS: usize = 30_000;
/// Elements in each other. A name in a certificate is 10 deep, one in a timestamp in an attribute 21.
const DEPTH: usize = 40;
/// There are five digests that are allowed; some programs list more than they use.
const DIGEST_ALGORITHMS: usize = 16;
/// Messages have one; a file may have those of several officers.
const SIGNERS: usize = 8;
/// Four in a chain, for each signer, and as many again.
const CERTIFICATES: usize = 64;
/// One for each CA of a chain, for each signer.
const CRLS: usize = 32;
/// Of one signer, signed or not. OpenSSL writes four, CAdES some ten.
const ATTRIBUTES: usize = 64;
/// White space and NUL after the end: what a writer of files may leave. Nothing else may follow.
const TRAILING: usize = 16;

/// Why a signature is not handed to OpenSSL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalkError {
    /// It is no whole SignedData.
    #[error("it is no CMS SignedData: {0}")]
    NotSigned(&'static str),
    /// There is more of something than is read.
    #[error("it has {count} {what}; at most {limit} are read")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many, or the first that is too many.
        count: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// The signature rests on a hash that proves nothing.
    #[error("its {place} is {algorithm}; allowed are SHA-1, SHA-224, SHA-256, SHA-384 and SHA-512")]
    Digest {
        /// Where it is named.
        place: &'static str,
        /// Its name, or its object identifier.
        algorithm: String,
    },
}

/// What a SignedData holds, in the bytes that came.
#[derive(Debug)]
pub struct Walked<'a> {
    /// How many have signed.
    pub signers: usize,
    /// Whether a signer's digest is SHA-1.
    pub has_sha1: bool,
    /// The X.509 certificates, each whole, as they follow each other.
    pub certificates: Vec<&'a [u8]>,
}

/// Looks through a signature that came in a message.
pub fn walk(signature: &[u8]) -> Result<Walked<'_>, WalkError> {
    at_most("bytes", signature.len(), LENGTH)?;
    walk_signed_file(signature)
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
/// The constructed bit of a tag.
const CONSTRUCTED: u8 = 0x20;

/// One element. Its children follow it in the list, up to `next`.
#[derive(Debug, Clone, Copy)]
struct Element {
    /// The first byte: class, form and, if below 31, number.
    tag: u8,
    start: usize,
    content: usize,
    content_end: usize,
    end: usize,
    next: usize,
}

struct Tree<'a> {
    bytes: &'a [u8],
    elements: Vec<Element>,
}

fn at_most(what: &'static str, count: usize, limit: usize) -> Result<(), WalkError> {
    if count > limit { Err(WalkError::TooMany { what, count, limit }) } else { Ok(()) }
}

/// Looks through a SignedData that may hold its content, of a length that is bounded already.
pub fn walk_signed_file(bytes: &[u8]) -> Result<Walked<'_>, WalkError> {
    let tree = Tree::read(bytes, ELEMENTS)?;
    let missing = WalkError::NotSigned;
    let mut outer = tree.children(0);
    let is_signed = outer.next().is_some_and(|kind| tree.content(kind) == SIGNED_DATA);
    if !is_signed {
        return Err(missing("its type is another"));
    }
    let explicit = outer.next().filter(|at| tree.tag(*at) == 0xa0).ok_or(missing("it has no content"))?;
    let signed = tree.children(explicit).next().ok_or(missing("it has no content"))?;
    let mut fields = tree.children(signed);
    fields.next().ok_or(missing("it has no version"))?;
    let digests = fields.next().filter(|at| tree.tag(*at) == SET).ok_or(missing("it names no digests"))?;
    at_most("digest algorithms", tree.children(digests).count(), DIGEST_ALGORITHMS)?;
    fields.next().filter(|at| tree.tag(*at) == SEQUENCE).ok_or(missing("it has no encapContentInfo"))?;
    let mut walked = Walked { signers: 0, has_sha1: false, certificates: Vec::new() };
    let mut signer_infos = None;
    for field in fields {
        match (tree.tag(field), signer_infos) {
            (0xa0, None) => {
                at_most("certificates", tree.children(field).count(), CERTIFICATES)?;
                let x509 = tree.children(field).filter(|at| tree.tag(*at) == SEQUENCE);
                walked.certificates.extend(x509.filter_map(|at| tree.whole(at)));
            }
            (0xa1, None) => at_most("CRLs", tree.children(field).count(), CRLS)?,
            (SET, None) => signer_infos = Some(field),
            _ => return Err(missing("it has a field that is not known")),
        }
    }
    let signer_infos = signer_infos.ok_or(missing("it has no signerInfos"))?;
    walked.signers = tree.children(signer_infos).count();
    at_most("signers", walked.signers, SIGNERS)?;
    for signer in tree.children(signer_infos) {
        walked.has_sha1 |= tree.signer(signer)?;
    }
    Ok(walked)
}

impl<'a> Tree<'a> {
    fn read(bytes: &'a [u8], limit: usize) -> Result<Self, WalkError> {
        let broken = WalkError::NotSigned;
        let mut elements: Vec<Element> = Vec::new();
        // Those that are not finished, with the end of those whose length is known.
        let mut open: Vec<(usize, Option<usize>)> = Vec::new();
        let mut at = 0;
        loop {
            // What ends here.
            while let Some(&(index, Some(end))) = open.last()
                && end == at
            {
                open.pop();
                let next = elements.len();
                if let Some(element) = elements.get_mut(index) {
                    element.next = next;
                }
            }
            if open.is_empty() && !elements.is_empty() {
                break;
            }
            let within = open.iter().rev().find_map(|(_, end)| *end).unwrap_or(bytes.len());
            let rest = bytes.get(at..within).ok_or(broken("its lengths do not fit"))?;
            if let (Some(&(index, None)), [0, 0, ..]) = (open.last(), rest) {
                open.pop();
                let next = elements.len();
                if let Some(element) = elements.get_mut(index) {
                    (element.content_end, element.end, element.next) = (at, at + 2, next);
                }
                at += 2;
                continue;
            }
            let (tag, head, length) = header(rest).ok_or(broken("it is cut off or no BER"))?;
            at_most("elements", elements.len() + 1, limit)?;
            at_most("levels", open.len() + 1, DEPTH)?;
            let content = at + head;
            let end = match length {
                Some(length) => Some(
                    content
                        .checked_add(length)
                        .filter(|end| *end <= within)
                        .ok_or(broken("its lengths do not fit"))?,
                ),
                None => None,
            };
            let (whole, next) = (end.unwrap_or(content), elements.len() + 1);
            elements.push(Element { tag, start: at, content, content_end: whole, end: whole, next });
            if tag & CONSTRUCTED == 0 {
                at = whole;
                if open.is_empty() {
                    break;
                }
            } else {
                open.push((next - 1, end));
                at = content;
            }
        }
        let after = bytes.get(at..).unwrap_or_default();
        at_most("bytes after its end", after.len(), TRAILING)?;
        if !after.iter().all(|byte| matches!(byte, 0 | b' ' | b'\t' | b'\r' | b'\n')) {
            return Err(broken("something follows its end"));
        }
        Ok(Self { bytes, elements })
    }

    /// The elements in this one.
    fn children(&self, parent: usize) -> impl Iterator<Item = usize> {
        let end = self.elements.get(parent).map_or(0, |element| element.next);
        let mut at = parent + 1;
        std::iter::from_fn(move || {
            let here = at;
            let element = self.elements.get(here).filter(|_| here < end)?;
            at = element.next;
            Some(here)
        })
    }

    fn tag(&self, at: usize) -> u8 {
        self.elements.get(at).map_or(0, |element| element.tag)
    }

    fn content(&self, at: usize) -> &'a [u8] {
        self.elements.get(at).and_then(|e| self.bytes.get(e.content..e.content_end)).unwrap_or_default()
    }

    fn whole(&self, at: usize) -> Option<&'a [u8]> {
        self.elements.get(at).and_then(|e| self.bytes.get(e.start..e.end))
    }

    /// A SignerInfo: version, sid, digestAlgorithm, `[0]` signed attributes, signatureAlgorithm, signature,
    /// `[1]` unsigned attributes. `true`: its digest is SHA-1.
    fn signer(&self, signer: usize) -> Result<bool, WalkError> {
        let missing = |_: ()| WalkError::NotSigned("a signerInfo is not whole");
        let mut fields = self.children(signer).skip(2);
        let digest = fields.next().ok_or(()).map_err(missing)?;
        self.hash("digest algorithm", digest)?;
        let is_sha1 = self.children(digest).next().is_some_and(|oid| self.content(oid) == SHA1);
        let mut next = fields.next().ok_or(()).map_err(missing)?;
        if self.tag(next) == 0xa0 {
            at_most("signed attributes", self.children(next).count(), ATTRIBUTES)?;
            next = fields.next().ok_or(()).map_err(missing)?;
        }
        self.signature_algorithm(next)?;
        fields.next().ok_or(()).map_err(missing)?;
        match fields.next() {
            Some(unsigned) if self.tag(unsigned) == 0xa1 => {
                at_most("unsigned attributes", self.children(unsigned).count(), ATTRIBUTES)?;
            }
            Some(_) => return Err(missing(())),
            None => {}
        }
        Ok(is_sha1)
    }

    /// An AlgorithmIdentifier that names a digest.
    fn hash(&self, place: &'static str, algorithm: usize) -> Result<(), WalkError> {
        let oid = self.children(algorithm).next().map(|at| self.content(at)).unwrap_or_default();
        if DIGESTS.contains(&oid) { Ok(()) } else { Err(not_allowed(place, oid)) }
    }

    fn signature_algorithm(&self, algorithm: usize) -> Result<(), WalkError> {
        let place = "signature algorithm";
        let mut parts = self.children(algorithm);
        let oid = parts.next().filter(|at| self.tag(*at) == OID).map(|at| self.content(at));
        let oid = oid.unwrap_or_default();
        if oid != RSASSA_PSS {
            return if SIGNATURES.contains(&oid) { Ok(()) } else { Err(not_allowed(place, oid)) };
        }
        // RSASSA-PSS-params: [0] the hash and [1] the mask with its hash; SHA-1 where they are missing.
        for field in parts.next().into_iter().flat_map(|parameters| self.children(parameters)) {
            let inner = self.children(field).next();
            match (self.tag(field), inner) {
                (0xa0, Some(hash)) => self.hash("signature algorithm's hash", hash)?,
                (0xa1, Some(mask)) => {
                    let hash = self.children(mask).nth(1).ok_or(not_allowed(place, oid))?;
                    self.hash("signature algorithm's hash", hash)?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Tag, length of the header, and length of the content unless it is indefinite.
fn header(bytes: &[u8]) -> Option<(u8, usize, Option<usize>)> {
    let (&tag, mut rest) = bytes.split_first()?;
    if tag & 0x1f == 0x1f {
        // No more than four bytes of number.
        let more = rest.iter().take(4).position(|byte| byte & 0x80 == 0)?;
        rest = rest.get(more + 1..)?;
    }
    let (&first, rest) = rest.split_first()?;
    let before = bytes.len() - rest.len();
    match first {
        0x80 if tag & CONSTRUCTED != 0 => Some((tag, before, None)),
        0x00..0x80 => Some((tag, before, Some(usize::from(first)))),
        0x81..=0x88 => {
            let count = usize::from(first & 0x7f);
            let mut length = 0_usize;
            for byte in rest.get(..count)? {
                length = length.checked_mul(256)?.checked_add(usize::from(*byte))?;
            }
            Some((tag, before + count, Some(length)))
        }
        _ => None,
    }
}

/// 1.2.840.113549.1.7.2
const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2];
/// 1.2.840.113549.1.1.10
const RSASSA_PSS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 10];
const MD5: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 2, 5];
const MD5_WITH_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 4];

const SHA1: &[u8] = &[0x2b, 14, 3, 2, 26];

/// SHA-1, which the network needs, and the SHA-2 family.
const DIGESTS: &[&[u8]] = &[
    SHA1,
    &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1],
    &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2],
    &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 3],
    &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 4],
];

/// RSA and ECDSA, by themselves (the digest is then the signer's `digestAlgorithm`) or with one of [`DIGESTS`].
const SIGNATURES: &[&[u8]] = &[
    // rsaEncryption, sha1WithRSA, sha256WithRSA, sha384WithRSA, sha512WithRSA, sha224WithRSA
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1],
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5],
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11],
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 12],
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 13],
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 14],
    // sha1WithRSA as OIW has it
    &[0x2b, 14, 3, 2, 29],
    // ecPublicKey, ecdsa-with-SHA1, -SHA224, -SHA256, -SHA384, -SHA512
    &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1],
    &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1],
    &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 1],
    &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2],
    &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3],
    &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4],
    // Ed25519, which hashes with SHA-512
    &[0x2b, 0x65, 0x70],
];

fn not_allowed(place: &'static str, oid: &[u8]) -> WalkError {
    let algorithm = match oid {
        MD5 => "MD5".to_owned(),
        MD5_WITH_RSA => "MD5 with RSA".to_owned(),
        other => {
            let hex = crate::identifier::hex(other.get(..other.len().min(32)).unwrap_or_default());
            format!("the object identifier {hex}")
        }
    };
    WalkError::Digest { place, algorithm }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x84], &length[..], content].concat()
    }

    fn ber(tag: u8, content: &[u8]) -> Vec<u8> {
        [&[tag, 0x80], content, &[0, 0]].concat()
    }

    type Write = fn(u8, &[u8]) -> Vec<u8>;

    /// How many of each, and what stands in one signer.
    struct Shape<'a> {
        digests: usize,
        certificates: usize,
        crls: usize,
        signers: usize,
        signed: usize,
        unsigned: usize,
        digest: &'a [u8],
        signature: &'a [u8],
    }

    const GOOD: Shape<'static> = Shape {
        digests: 1,
        certificates: 2,
        crls: 0,
        signers: 1,
        signed: 3,
        unsigned: 0,
        digest: DIGESTS[1],
        signature: SIGNATURES[0],
    };

    impl Shape<'_> {
        fn written(&self, write: Write) -> Vec<u8> {
            let empty = write(SEQUENCE, &[]);
            let algorithm = |oid: &[u8]| write(SEQUENCE, &der(OID, oid));
            let signer = [
                der(2, &[1]),
                empty.clone(),
                algorithm(self.digest),
                write(0xa0, &empty.repeat(self.signed)),
                algorithm(self.signature),
                der(4, b"signature"),
                write(0xa1, &empty.repeat(self.unsigned)),
            ]
            .concat();
            let signed = [
                der(2, &[1]),
                write(SET, &algorithm(DIGESTS[1]).repeat(self.digests)),
                empty.clone(),
                write(0xa0, &empty.repeat(self.certificates)),
                write(0xa1, &empty.repeat(self.crls)),
                write(SET, &write(SEQUENCE, &signer).repeat(self.signers)),
            ]
            .concat();
            let explicit = write(0xa0, &write(SEQUENCE, &signed));
            write(SEQUENCE, &[der(OID, SIGNED_DATA), explicit].concat())
        }
    }

    #[test]
    fn what_is_within_the_limits_is_read_in_der_and_ber() {
        for write in [der as Write, ber] {
            let written = GOOD.written(write);
            let walked = walk(&written).unwrap();
            assert_eq!((walked.signers, walked.certificates.len()), (1, 2));
            assert_eq!(walked.certificates[0], write(SEQUENCE, &[]));
            assert!(walk(&[&written[..], b"\r\n"].concat()).is_ok());
        }
    }

    #[test]
    fn what_there_is_too_much_of_is_named() {
        for write in [der as Write, ber] {
            let cases = [
                ("digest algorithms", Shape { digests: 17, ..GOOD }),
                ("digest algorithms", Shape { digests: 4_000, ..GOOD }),
                ("certificates", Shape { certificates: 65, ..GOOD }),
                ("CRLs", Shape { crls: 33, ..GOOD }),
                ("signers", Shape { signers: 9, ..GOOD }),
                ("signed attributes", Shape { signed: 65, ..GOOD }),
                ("unsigned attributes", Shape { unsigned: 65, ..GOOD }),
                ("elements", Shape { unsigned: 31_000, ..GOOD }),
                ("bytes", Shape { digests: 16_000, ..GOOD }),
            ];
            for (expected, shape) in cases {
                match walk(&shape.written(write)) {
                    Err(WalkError::TooMany { what, .. }) => assert_eq!(what, expected),
                    other => panic!("{expected}: {other:?}"),
                }
            }
            let nested = (0..1_000).fold(Vec::new(), |inner, _| write(SEQUENCE, &inner));
            assert!(matches!(walk(&nested), Err(WalkError::TooMany { what: "levels", .. })));
        }
    }

    #[test]
    fn wrong_lengths_and_what_follows_are_refused() {
        for write in [der as Write, ber] {
            let written = GOOD.written(write);
            for end in 0..written.len() {
                assert!(walk(&written[..end]).is_err(), "cut at {end}");
            }
            assert!(walk(&[&written[..], b"x"].concat()).is_err());
            assert!(walk(&[&written[..], &[0; 17]].concat()).is_err());
        }
        // A child that is longer than its parent; lengths that overflow; a primitive of indefinite length.
        for bytes in
            [&[0x30, 2, 4, 9][..], &[0x30, 0x88, 255, 255, 255, 255, 255, 255, 255, 255], &[0x04, 0x80, 0, 0]]
        {
            assert!(matches!(walk(bytes), Err(WalkError::NotSigned(_))));
        }
    }

    #[test]
    fn md5_and_what_is_not_known_are_no_digests_of_a_signature() {
        for shape in [
            Shape { digest: MD5, ..GOOD },
            Shape { signature: MD5_WITH_RSA, ..GOOD },
            Shape { digest: &[0x2a, 3], ..GOOD },
        ] {
            assert!(matches!(walk(&shape.written(der)), Err(WalkError::Digest { .. })));
        }
        for digest in DIGESTS {
            assert!(walk(&Shape { digest, ..GOOD }.written(der)).is_ok());
        }
    }
}
