//! The original as a brief delivery receipt carries it: every attachment is its hash (RFC 6109 s. 3.3.2.2).
//!
//! Promise: what is no attachment stays byte for byte, header and boundaries included; the same original
//! gives the same bytes; what cannot be taken apart comes back whole, since a receipt that says more than was
//! asked for is a good receipt and none is not. Nothing is decoded: the result is slices of the original, and
//! memory for each attachment.
//!
//! An attachment is a part with a name (`name` in Content-Type, `filename` in Content-Disposition) or a
//! `message/rfc822`, at any depth, or the message itself if it is nothing but that. It becomes a text/plain
//! part of the same name with `.hash` after it, whose content is the SHA-1 of the part's body in 40
//! hexadecimal digits. The body is hashed as it stands in the message: encoded, in lines that end in CRLF,
//! without the line break before the next boundary. What stays:
//! - multiparts, named or not: they are the structure, and their parts are looked at;
//! - in `multipart/signed` everything but the first part: the signature;
//! - `application/pkcs7-mime` and `x-pkcs7-mime`: nothing can be told apart inside.

use std::ops::Range;

use bytes::Bytes;
use openssl::sha::Sha1;

use crate::header::{Field, Header};
use crate::identifier::hex;
use crate::message::Body;
use crate::mime::{DEEPEST, MAX_PART_HEADER, MOST_PARTS, MimeError, header_end, split};

/// The longest name, in bytes: no file system has longer ones. What is over it is cut off.
const MOST_NAME_BYTES: usize = 255;

/// What a message in the message is called that has no name.
const FORWARDED: &str = "message.eml";

/// postacert.eml with the hashes in place of the attachments; whole, where it cannot be taken apart.
pub fn breve(original: &Bytes) -> Body {
    let mut reduction = Reduction { original, reduced: Body::default(), copied: 0, parts_left: MOST_PARTS };
    match reduction.entity(0..original.len(), DEEPEST) {
        Ok(()) => {
            reduction.reduced.push(original.slice(reduction.copied..));
            reduction.reduced
        }
        Err(_) => Body::from_bytes(original.clone()),
    }
}

/// The work on one original.
struct Reduction<'a> {
    original: &'a Bytes,
    reduced: Body,
    /// Up to where `reduced` has what is in `original`.
    copied: usize,
    parts_left: usize,
}

impl Reduction<'_> {
    /// The message, or a part of it: looked into, replaced, or left.
    fn entity(&mut self, range: Range<usize>, levels: usize) -> Result<(), MimeError> {
        let bytes = &self.original[range.clone()];
        let (end, body) =
            header_end(&bytes[..bytes.len().min(MAX_PART_HEADER)]).ok_or(MimeError::BadHeader)?;
        let header = Header::parse(&bytes[..end]).map_err(|_| MimeError::BadHeader)?;
        let body = range.start + body..range.end;
        let media = header.content_type();
        let essence = media.as_ref().map_or("text/plain", |m| m.essence.as_str());
        if essence.starts_with("multipart/") {
            let is_signed = essence == "multipart/signed";
            let boundary =
                media.as_ref().and_then(|m| m.attribute("boundary")).unwrap_or_default().to_owned();
            drop(header);
            return self.multipart(body, &boundary, is_signed, levels);
        }
        let name = match name(&header) {
            _ if matches!(essence, "application/pkcs7-mime" | "application/x-pkcs7-mime") => return Ok(()),
            Some(name) => name,
            None if essence == "message/rfc822" => FORWARDED.to_owned(),
            None => return Ok(()),
        };
        self.replace(range.start, header, body, &name);
        Ok(())
    }

    fn multipart(
        &mut self,
        body: Range<usize>,
        boundary: &str,
        is_signed: bool,
        levels: usize,
    ) -> Result<(), MimeError> {
        if boundary.is_empty() || levels == 0 {
            return Err(MimeError::NoParts(boundary.to_owned()));
        }
        let parts = split(&self.original[body.clone()], boundary, self.parts_left)?;
        self.parts_left -= parts.len();
        let looked_at = if is_signed { 1 } else { parts.len() };
        for part in parts.into_iter().take(looked_at) {
            self.entity(body.start + part.start..body.start + part.end, levels - 1)?;
        }
        Ok(())
    }

    /// Puts the hash of `body` in place of the entity that begins at `start`. Of its header stays what is not
    /// about the content: of the message itself nearly everything.
    fn replace(&mut self, start: usize, mut header: Header, body: Range<usize>, name: &str) {
        let mut sha1 = Sha1::new();
        sha1.update(&self.original[body.clone()]);
        let name = format!("{}.hash", &name[..name.floor_char_boundary(MOST_NAME_BYTES)]);
        header.fields_mut().retain(|f| !f.name.to_ascii_lowercase().starts_with("content-"));
        header.push(Field::written(
            "Content-Type",
            &format!("text/plain; charset=us-ascii{}", parameter("name", &name)),
        ));
        header.push(Field::written("Content-Transfer-Encoding", "7bit"));
        header.push(Field::written(
            "Content-Disposition",
            &format!("attachment{}", parameter("filename", &name)),
        ));
        self.reduced.push(self.original.slice(self.copied..start));
        self.reduced.push([&header.to_bytes()[..], b"\r\n", hex(&sha1.finish()).as_bytes()].concat());
        self.copied = body.end;
    }
}

/// What a part is called: `filename` before `name`, in any form of RFC 2231.
fn name(header: &Header) -> Option<String> {
    let filename = header.content_disposition().and_then(|d| d.attribute("filename").map(str::to_owned));
    filename.or_else(|| header.content_type().and_then(|m| m.attribute("name").map(str::to_owned)))
}

/// `; name="value"` on a line of its own, or as RFC 2231 has it where the value is not plain or too long for
/// one.
fn parameter(name: &str, value: &str) -> String {
    const LINE: usize = 60;
    let is_plain = |b: u8| (b == b' ' || b.is_ascii_graphic()) && !matches!(b, b'"' | b'\\');
    if value.len() <= LINE && value.bytes().all(is_plain) && !value.contains("=?") {
        return format!(";\r\n {name}=\"{value}\"");
    }
    // A character is never cut in two: some programs decode line by line.
    let encoded = value.chars().map(|c| match c {
        c if c.is_ascii_alphanumeric() || ".-_".contains(c) => c.to_string(),
        c => c.encode_utf8(&mut [0; 4]).bytes().map(|b| format!("%{b:02X}")).collect(),
    });
    let mut lines = vec!["utf-8''".to_owned()];
    for encoded in encoded {
        match lines.last_mut() {
            Some(line) if line.len() + encoded.len() <= LINE => *line += &encoded,
            _ => lines.push(encoded),
        }
    }
    match &lines[..] {
        [line] => format!(";\r\n {name}*={line}"),
        lines => lines.iter().enumerate().map(|(i, line)| format!(";\r\n {name}*{i}*={line}")).collect(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEAD: &str = "Received: by mail\nFrom: a@x.test\nSubject:  odd \nMIME-Version: 1.0\n";

    fn crlf(text: &str) -> Bytes {
        text.replace('\n', "\r\n").into()
    }

    /// The brief form of a message of these lines.
    fn brief(text: &str) -> String {
        String::from_utf8(breve(&crlf(text)).into_bytes().to_vec()).unwrap().replace("\r\n", "\n")
    }

    #[track_caller]
    fn stays(text: &str) {
        assert_eq!(brief(text), text);
    }

    fn sha1(text: &str) -> String {
        hex(&openssl::sha::sha1(&crlf(text)))
    }

    /// The part that stands for an attachment.
    fn hash_part(name: &str, hash: &str) -> String {
        format!(
            "Content-Type: text/plain; charset=us-ascii;\n name=\"{name}\"\nContent-Transfer-Encoding: 7bit\n\
             Content-Disposition: attachment;\n filename=\"{name}\"\n\n{hash}"
        )
    }

    fn mixed(part: &str) -> String {
        format!(
            "{HEAD}Content-Type: multipart/mixed; boundary=b\n\npreamble\n--b\n\nText \
            \n\n--b\n{part}\n--b--\nepilogue\n"
        )
    }

    #[test]
    fn rfc6109_3_3_2_2_an_attachment_is_its_hash() {
        let part = "X-Field: y\nContent-ID: <1@x>\nContent-Type: application/pdf; \
            name=\"offerta.pdf\"\nContent-Transfer-Encoding: base64\n\nJVBERi0xLjQK\nJSVFT0YK";
        // printf 'JVBERi0xLjQK\r\nJSVFT0YK' | sha1sum
        let hash = "43f3134e2fd5285b4629edb5bd123a87521502bc";
        assert_eq!(
            brief(&mixed(part)),
            mixed(&format!("X-Field: y\n{}", hash_part("offerta.pdf.hash", hash)))
        );
    }

    #[test]
    fn rfc6109_3_3_2_2_the_line_break_before_the_boundary_is_the_boundarys() {
        let part = |body: &str| format!("Content-Disposition: inline; filename=a.txt\n\n{body}");
        for body in ["", "x", "x\n", "\n\n"] {
            assert_eq!(brief(&mixed(&part(body))), mixed(&hash_part("a.txt.hash", &sha1(body))), "{body:?}");
        }
    }

    #[test]
    fn rfc2231_every_way_to_give_a_name() {
        let mixed_with = |header: &str| brief(&mixed(&format!("{header}\n\nx")));
        for header in [
            "Content-Type: text/plain; NAME=a.txt",
            "Content-Type: text/plain;\n\tname = \"a.txt\"",
            "content-disposition: attachment; FileName=\"a.txt\"",
            "Content-Disposition: attachment; filename*=utf-8''a.txt",
            "Content-Disposition: attachment; filename*=iso-8859-1'it'a%2Etxt",
            "Content-Disposition: attachment;\n filename*0=\"a.\";\n filename*1=\"txt\"",
            "Content-Disposition: attachment; filename*0*=utf-8''a.; filename*1*=txt",
            "Content-Type: text/plain; name*=utf-8''a.txt",
            "Content-Type: text/plain; name=\"=?utf-8?Q?a.txt?=\"",
            "Content-Type: text/plain; name=\"b.txt\"\nContent-Disposition: attachment; filename=\"a.txt\"",
        ] {
            assert_eq!(mixed_with(header), mixed(&hash_part("a.txt.hash", &sha1("x"))), "{header}");
        }
        stays(&mixed("Content-Type: text/html; charset=utf-8\nContent-Disposition: inline\n\n<p>"));
    }

    #[test]
    fn rfc2231_names_that_are_not_plain_are_encoded_and_open_no_header() {
        let name_of = |written: &str| {
            let brief =
                brief(&mixed(&format!("Content-Disposition: attachment; filename*=utf-8''{written}\n\nx")));
            assert!(brief.lines().all(|line| line.len() <= 78), "{brief}");
            let part = brief.split("--b\n").nth(2).unwrap();
            let header = Header::parse(&crlf(&format!("{}\n", part.split("\n\n").next().unwrap()))).unwrap();
            assert_eq!(header.fields().len(), 3);
            assert_eq!(name(&header).as_deref(), header.content_type().unwrap().attribute("name"));
            name(&header).unwrap()
        };
        assert_eq!(name_of("citt%C3%A0%20%E2%82%AC.pdf"), "città €.pdf.hash");
        assert_eq!(name_of("a%22%5C.pdf"), "a\"\\.pdf.hash");
        assert_eq!(name_of("a%0D%0ABcc:%20x"), "a\r\nBcc: x.hash");
        assert_eq!(name_of("%3D%3Futf-8%3FQ%3Fa%3F%3D"), "=?utf-8?Q?a?=.hash");
        assert_eq!(name_of(&"x".repeat(100)), format!("{}.hash", "x".repeat(100)));
        assert_eq!(name_of(&"%C3%A0".repeat(200)), format!("{}.hash", "à".repeat(127)));
    }

    #[test]
    fn rfc6109_3_3_2_2_a_forwarded_message_is_one_hash() {
        let forwarded = "Subject: x\nContent-Type: multipart/mixed; boundary=b2\n\n--b2\nContent-Type: \
            image/png; name=x.png\n\nx\n--b2--\n";
        let part =
            |header: &str| brief(&mixed(&format!("Content-Type: message/rfc822{header}\n\n{forwarded}")));
        assert_eq!(part(""), mixed(&hash_part("message.eml.hash", &sha1(forwarded))));
        assert_eq!(part("; name=\"Disdetta.eml\""), mixed(&hash_part("Disdetta.eml.hash", &sha1(forwarded))));
    }

    #[test]
    fn rfc6109_3_3_2_2_a_signed_message_keeps_its_signature() {
        let signed = |part: &str| {
            format!(
                "{HEAD}Content-Type: multipart/signed; protocol=\"application/pkcs7-signature\"; \
                boundary=s\n\n--s\n\
                 Content-Type: multipart/mixed; boundary=b\n\n--b\n\nText\n--b\n{part}\n--b--\n\n--s\n\
                 Content-Type: application/pkcs7-signature; name=smime.p7s\nContent-Disposition: \
                attachment; filename=smime.p7s\n\nMII=\n--s--\n"
            )
        };
        let part = "Content-Type: application/pdf; name=a.pdf\n\nx";
        assert_eq!(brief(&signed(part)), signed(&hash_part("a.pdf.hash", &sha1("x"))));
    }

    #[test]
    fn lines_that_end_in_lf_alone_do_not_hide_the_hash() {
        let original = Bytes::from("X: y\nContent-Type: application/pdf; name=a.pdf\n\nx");
        let brief = String::from_utf8(breve(&original).into_bytes().to_vec()).unwrap().replace("\r\n", "\n");
        assert_eq!(brief, format!("X: y\n{}", hash_part("a.pdf.hash", &sha1("x"))));
    }

    #[test]
    fn rfc6109_3_3_2_2_what_cms_holds_stays() {
        for kind in ["application/pkcs7-mime", "application/x-pkcs7-mime", "Application/PKCS7-MIME"] {
            let entity = format!(
                "Content-Type: {kind}; smime-type=signed-data; name=smime.p7m\nContent-Disposition: \
                attachment; filename=smime.p7m\n\nMII="
            );
            stays(&format!("{HEAD}{entity}\n"));
            stays(&mixed(&entity));
        }
    }

    #[test]
    fn rfc6109_3_3_2_2_a_message_that_is_an_attachment_keeps_its_header() {
        let message = format!(
            "{HEAD}Content-Type: application/pdf; name=a.pdf\nContent-Transfer-Encoding: base64\nX-Last: \
            z\n\nJVBERi0K\n"
        );
        assert_eq!(
            brief(&message),
            format!("{HEAD}X-Last: z\n{}", hash_part("a.pdf.hash", &sha1("JVBERi0K\n")))
        );
    }

    #[test]
    fn attachments_are_found_at_every_level_up_to_the_bound() {
        let nested = |levels: usize, attachment: &str| {
            (0..levels).rev().fold(attachment.to_owned(), |inner, i| {
                format!(
                    "Content-Type: multipart/mixed; boundary=b{i}; \
                    name=x\n\n--b{i}\n{inner}\n--b{i}--\n"
                )
            })
        };
        let attachment = "Content-Disposition: attachment; filename=a\n\nx";
        assert_eq!(brief(&nested(DEEPEST, attachment)), nested(DEEPEST, &hash_part("a.hash", &sha1("x"))));
        stays(&nested(DEEPEST + 1, attachment));
    }

    #[test]
    fn what_cannot_be_taken_apart_stays_whole() {
        let attachment = "Content-Disposition: attachment; filename=a\n\nx";
        for part in [
            format!("{attachment}\n--b\nno field\n\nx"),
            format!("{attachment}\n--b\nContent-Type: multipart/mixed; boundary=other\n\nx"),
            format!("{attachment}\n--b\nContent-Type: multipart/mixed\n\nx"),
            format!("{attachment}\n--b\nContent-Type: multipart/mixed; boundary=c\n\n--c\n\nnot closed"),
            format!("{attachment}\n--b\nX-Long: {}\n\nx", "x".repeat(MAX_PART_HEADER)),
        ] {
            stays(&mixed(&part));
        }
        stays("no header");
        stays("");
        stays(&mixed(attachment).replace("--b--", "-- b"));
    }

    #[test]
    fn parts_are_counted_while_they_are_found() {
        let parts = |n: usize| {
            format!(
                "{HEAD}Content-Type: multipart/mixed; boundary=b\n\n{}--b--\n",
                "--b\nContent-Type: a/b; name=n\n\n\n".repeat(n)
            )
        };
        assert_eq!(brief(&parts(MOST_PARTS)).matches("n.hash").count(), 2 * MOST_PARTS);
        stays(&parts(MOST_PARTS + 1));
        // The bound is that of the message, not of each level.
        let inner = |n: usize| {
            format!(
                "--b\nContent-Type: multipart/mixed; boundary=c\n\n{}--c--\n",
                "--c\nContent-Type: a/b; name=n\n\n\n".repeat(n)
            )
        };
        let both = |first: usize, second: usize| {
            format!(
                "{HEAD}Content-Type: multipart/mixed; boundary=b\n\n{}{}--b--\n",
                inner(first),
                inner(second)
            )
        };
        let half = MOST_PARTS / 2 - 1;
        assert_eq!(brief(&both(half, half)).matches("n.hash").count(), 4 * half);
        stays(&both(half, half + 1));
        let tiny = Bytes::from(format!(
            "Content-Type: multipart/mixed; boundary=b\r\n\r\n{}--b--\r\n",
            "--b\r\n\r\n\r\n".repeat(1_400_000)
        ));
        assert_eq!(breve(&tiny).pieces(), [tiny]);
    }

    proptest! {
        #[test]
        fn without_names_every_byte_stays(bytes: Vec<u8>) {
            let original = [b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n", &bytes[..], b"\r\n--b--\r\n"].concat();
            for original in [bytes, original] {
                prop_assert_eq!(&breve(&original.clone().into()).into_bytes()[..], &original[..]);
            }
        }

        #[test]
        fn what_is_beside_an_attachment_stays_byte_for_byte(
            parts in proptest::collection::vec(("[ -~]{0,20}", "(Content-Type: (text|image)/[a-z]{1,5}\r\n)?", "[ -~\r\n\u{e8}]{0,200}", any::<bool>()), 1..6)
        ) {
            let (mut original, mut expected) = (String::new(), String::new());
            for text in [&mut original, &mut expected] {
                *text += "From: a@x.test\r\nContent-Type: multipart/mixed; boundary=\"=_b\"\r\n\r\n";
            }
            for (preamble, header, body, named) in &parts {
                let whole = format!("--=_b\r\nX-P: {preamble}\r\n{header}\r\n{body}\r\n");
                if *named {
                    original += &whole.replacen("X-P", "Content-Disposition: attachment; filename=a\r\nX-P", 1);
                    let hash = hex(&openssl::sha::sha1(body.as_bytes()));
                    expected += &format!("--=_b\r\nX-P: {preamble}\r\n{}\r\n", hash_part("a.hash", &hash).replace('\n', "\r\n"));
                } else {
                    original += &whole;
                    expected += &whole;
                }
            }
            for text in [&mut original, &mut expected] {
                *text += "--=_b--\r\nepilogue";
            }
            let reduced = breve(&original.into()).into_bytes();
            prop_assert_eq!(String::from_utf8_lossy(&reduced), expected);
        }
    }
}
