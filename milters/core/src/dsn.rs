//! Postfix's delivery status notifications (RFC 3464): what it could not deliver, or not hand on.
//!
//! Promise: a recipient is the one that Postfix itself names (`Final-Recipient`). What a client called it
//! (`Original-Recipient`, from its ORCPT) is never read.

use std::ops::Range;

use crate::address::Address;
use crate::clock::Moment;
use crate::header::Header;
use crate::mime::{self, MimeError};

/// The report on one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipientReport {
    /// The address that was delivered to.
    pub recipient: Address,
    /// It failed for good. Anything else (delivered, relayed, delayed) is not asked for, and nothing of ours
    /// follows from it.
    pub has_failed: bool,
    /// Enhanced status code (RFC 3463); 5.1.10 for a domain that takes no mail at all (RFC 7505 s. 4.1).
    pub status: String,
    /// The next hop's own words, if any.
    pub diagnostic: String,
}

/// A delivery status notification.
#[derive(Debug, Clone)]
pub struct Report {
    /// `Original-Envelope-Id`: the ENVID that the message had.
    pub envelope_id: Option<String>,
    /// When Postfix wrote the report.
    pub date: Option<Moment>,
    /// One entry for each recipient.
    pub recipients: Vec<RecipientReport>,
    /// Where in the report's body the reported message lies, if it came back whole (`RET=FULL`).
    pub returned: Option<Range<usize>>,
}

/// A report that cannot be read to its end: it waits, for nobody knows what it says.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A multipart that cannot be taken apart.
    #[error("the delivery report: {0}")]
    Mime(#[from] MimeError),
    /// A group of fields that are none.
    #[error("the delivery report has a malformed group of fields")]
    BadGroup,
    /// A recipient that is no address.
    #[error("the delivery report is about {0:?}, which is no mail address")]
    BadRecipient(String),
    /// Nobody.
    #[error("the delivery report names no recipient")]
    NoRecipient,
}

/// A report has three parts: words, fields, the message or its header.
const MOST_PARTS: usize = 8;

/// Whether the header is that of a delivery status notification.
pub fn is_report(header: &Header) -> bool {
    header.content_type().is_some_and(|m| {
        m.essence == "multipart/report" && m.attribute("report-type") == Some("delivery-status")
    })
}

impl Report {
    /// Reads a report with this header and body.
    pub fn parse(header: &Header, body: &[u8]) -> Result<Self, ReportError> {
        let media = header.content_type();
        let boundary = media.as_ref().and_then(|m| m.attribute("boundary")).unwrap_or_default();
        let mut report = Self {
            envelope_id: None,
            date: header.text("Date").and_then(|d| Moment::from_rfc5322(&d)),
            recipients: Vec::new(),
            returned: None,
        };
        for range in mime::split(body, boundary, MOST_PARTS)? {
            let part = mime::part(body, range)?;
            let content = &body[part.body.clone()];
            match part.header.content_type().map(|m| m.essence).as_deref() {
                Some("message/delivery-status" | "message/global-delivery-status") => {
                    report.read_status(content)?
                }
                Some("message/rfc822" | "message/global") => {
                    report.returned = report.returned.or(Some(part.body))
                }
                _ => {}
            }
        }
        if report.recipients.is_empty() {
            return Err(ReportError::NoRecipient);
        }
        Ok(report)
    }

    fn read_status(&mut self, content: &[u8]) -> Result<(), ReportError> {
        for group in groups(content)? {
            let Some(action) = group.text("Action") else {
                self.envelope_id = self.envelope_id.take().or_else(|| group.text("Original-Envelope-Id"));
                continue;
            };
            let named = group.text("Final-Recipient").unwrap_or_default();
            let address = named.split_once(';').and_then(|(_, text)| Address::parse(text.trim()));
            let (status, diagnostic) =
                (group.text("Status").unwrap_or_default(), group.text("Diagnostic-Code").unwrap_or_default());
            self.recipients.push(RecipientReport {
                recipient: address.ok_or(ReportError::BadRecipient(named))?,
                has_failed: action.eq_ignore_ascii_case("failed"),
                status: if is_null_mx(&diagnostic) { "5.1.10".to_owned() } else { status },
                diagnostic,
            });
        }
        Ok(())
    }
}

/// Whether Postfix's own smtp client says that the domain takes no mail, which it does under 5.1.0.
fn is_null_mx(diagnostic: &str) -> bool {
    diagnostic.to_ascii_lowercase().starts_with("x-postfix;") && diagnostic.ends_with("(nullMX)")
}

/// The field groups of a delivery-status part, separated by empty lines.
fn groups(content: &[u8]) -> Result<Vec<Header>, ReportError> {
    let mut groups = Vec::new();
    let mut rest = content;
    while !rest.is_empty() {
        let (end, next) = mime::header_end(rest).unwrap_or((rest.len(), rest.len()));
        groups.push(Header::parse(&rest[..end]).map_err(|_| ReportError::BadGroup)?);
        rest = &rest[next..];
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = "This is a MIME-encapsulated message.\n\n--B/x\nContent-Description: \
        Notification\nContent-Type: text/plain; charset=us-ascii\n\ntext\n\n\
        --B/x\nContent-Description: Delivery report\nContent-Type: message/delivery-status\n\n\
        Reporting-MTA: dns; mail.gestore.beta.test\nOriginal-Envelope-Id: 00ff\nX-Postfix-Queue-ID: \
        4abc\nX-Postfix-Sender: rfc822; anna@pec.alfa.test\nArrival-Date: Tue, 13 Nov 2018 16:39:26 +0100 \
        (CET)\n\n\
        Final-Recipient: rfc822; bruno@pec.beta.test\nOriginal-Recipient: \
        rfc822;bruno@pec.beta.test\nAction: relayed\nStatus: 2.0.0\nRemote-MTA: dns; \
        private/dovecot-lmtp\nDiagnostic-Code: smtp; 250 2.0.0 saved\n\n\
        Final-Recipient: rfc822; nessuno@pec.beta.test\nOriginal-Recipient: \
        rfc822;nessuno@pec.beta.test\nAction: failed\nStatus: 5.1.1\nDiagnostic-Code: smtp; 550 5.1.1 \
        User\n    doesn't exist\n\n\
        --B/x\nContent-Description: Message Headers\nContent-Type: text/rfc822-headers\n\nReceived: \
        x\nMessage-ID: <pec.1@gestore.alfa.test>\n\n--B/x--\n";

    fn report() -> Report {
        parse(BODY).unwrap()
    }

    fn parse(body: &str) -> Result<Report, ReportError> {
        let header = "Date: Tue, 13 Nov 2018 16:39:27 +0100\r\nContent-Type: multipart/report; \
            report-type=delivery-status;\r\n\tboundary=\"B/x\"\r\n";
        let header = Header::parse(header.as_bytes()).unwrap();
        assert!(is_report(&header));
        Report::parse(&header, body.replace('\n', "\r\n").as_bytes())
    }

    #[test]
    fn a_report_that_says_less_than_it_should_is_no_report() {
        let nobody = BODY.replace("rfc822; bruno@pec.beta.test", "rfc822; bruno");
        assert!(matches!(parse(&nobody), Err(ReportError::BadRecipient(_))));
        assert!(matches!(
            parse(&BODY.replace("Action: relayed", "Action relayed")),
            Err(ReportError::BadGroup)
        ));
        assert!(matches!(parse(&BODY.replace("Action: ", "Faction: ")), Err(ReportError::NoRecipient)));
    }

    #[test]
    fn rfc3464_fields_are_read() {
        let report = report();
        assert_eq!(report.envelope_id.as_deref(), Some("00ff"));
        assert_eq!(report.date, Some(Moment::from_unix(1_542_123_567)));
        let [delivered, failed] = &report.recipients[..] else { panic!("{:?}", report.recipients) };
        assert_eq!((delivered.recipient.as_str(), delivered.has_failed), ("bruno@pec.beta.test", false));
        assert_eq!(
            (failed.recipient.as_str(), failed.has_failed, failed.status.as_str()),
            ("nessuno@pec.beta.test", true, "5.1.1")
        );
        assert_eq!(failed.diagnostic, "smtp; 550 5.1.1 User    doesn't exist");
        assert_eq!(report.returned, None, "its header alone");
    }

    #[test]
    fn rfc3461_a_message_that_came_back_whole_is_found() {
        let body = BODY
            .replace("text/rfc822-headers", "message/rfc822")
            .replace("\n--B/x--", "\nthe body\n\n--B/x--")
            .replace('\n', "\r\n");
        let returned = parse(&body.replace("\r\n", "\n")).unwrap().returned.unwrap();
        assert_eq!(
            &body[returned],
            "Received: x\r\nMessage-ID: <pec.1@gestore.alfa.test>\r\n\r\nthe body\r\n"
        );
    }

    #[test]
    fn what_a_client_called_a_recipient_is_not_read() {
        let report =
            parse(&BODY.replace("Original-Recipient: rfc822;nessuno", "Original-Recipient: rfc822;bruno"))
                .unwrap();
        assert_eq!(report.recipients[1].recipient.as_str(), "nessuno@pec.beta.test");
    }

    #[test]
    fn rfc7505_a_domain_that_takes_no_mail_has_its_own_status() {
        let status = |diagnostic: &str| {
            let report = BODY
                .replace("Status: 5.1.1", "Status: 5.1.0")
                .replace("smtp; 550 5.1.1 User\n    doesn't exist", diagnostic);
            parse(&report).unwrap().recipients[1].status.clone()
        };
        assert_eq!(status("X-Postfix; Domain pec.beta.test does not accept mail\n    (nullMX)"), "5.1.10");
        // In the words of another server it means nothing.
        assert_eq!(status("smtp; 550 5.1.0 no (nullMX)"), "5.1.0");
    }

    #[test]
    fn what_stands_between_the_groups_does_not_matter() {
        let sparse = BODY.replace("\n\nFinal-Recipient", "\n\n\nX-Other: 1\n\n\nFinal-Recipient");
        assert_ne!(sparse, BODY);
        let sparse = parse(&sparse).unwrap();
        assert_eq!((sparse.envelope_id.as_deref(), sparse.recipients.len()), (Some("00ff"), 2));
    }

    #[test]
    fn other_mail_is_no_report() {
        for text in [
            "Content-Type: text/plain\r\n",
            "Content-Type: multipart/report; report-type=disposition-notification; boundary=x\r\n",
            "",
        ] {
            assert!(!is_report(&Header::parse(text.as_bytes()).unwrap()));
        }
    }
}
