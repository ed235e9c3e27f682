//! Postfix's delivery status notifications (RFC 3464): the report that is the fact behind a delivery receipt.

use crate::address::Address;
use crate::clock::Moment;
use crate::header::Header;
use crate::mime::{self, MimeError};

/// What happened to one recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The mailbox has it (`delivered`), or the next hop took it and reports no further (`relayed`, which is what Postfix
    /// writes for an LMTP server that does not announce DSN).
    Delivered,
    /// It failed for good.
    Failed,
    /// It is still under way, or something else that is no end.
    Pending,
}

/// The report on one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipientReport {
    /// The address that was delivered to.
    pub recipient: Address,
    /// How it ended.
    pub action: Action,
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
    /// The reported message's header, as far as it came back.
    pub original_header: Header,
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
    header.content_type().is_some_and(|m| m.essence == "multipart/report" && m.attribute("report-type") == Some("delivery-status"))
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
            original_header: Header::default(),
        };
        for range in mime::split(body, boundary, MOST_PARTS)? {
            let part = mime::part(body, range)?;
            let content = &body[part.body.clone()];
            match part.header.content_type().map(|m| m.essence).as_deref() {
                Some("message/delivery-status" | "message/global-delivery-status") => report.read_status(content)?,
                Some("message/rfc822" | "text/rfc822-headers" | "message/global" | "message/global-headers") => {
                    let section = mime::header_end(content).map_or(content, |(end, _)| &content[..end]);
                    // A message cut inside its header still names its Message-ID.
                    report.original_header = Header::parse(section).or_else(|at| Header::parse(&section[..at])).unwrap_or_default();
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
            // The original recipient is the one that was asked for, before any rewriting.
            let named: Vec<String> = ["Original-Recipient", "Final-Recipient"].iter().filter_map(|name| group.text(name)).collect();
            let address = named.iter().find_map(|text| Address::parse(text.split_once(';')?.1.trim()));
            let (status, diagnostic) = (group.text("Status").unwrap_or_default(), group.text("Diagnostic-Code").unwrap_or_default());
            self.recipients.push(RecipientReport {
                recipient: address.ok_or_else(|| ReportError::BadRecipient(named.join(", ")))?,
                action: match action.to_ascii_lowercase().as_str() {
                    "delivered" | "relayed" => Action::Delivered,
                    "failed" => Action::Failed,
                    _ => Action::Pending,
                },
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

    const BODY: &str = "This is a MIME-encapsulated message.\n\n--B/x\nContent-Description: Notification\nContent-Type: text/plain; charset=us-ascii\n\ntext\n\n\
        --B/x\nContent-Description: Delivery report\nContent-Type: message/delivery-status\n\n\
        Reporting-MTA: dns; mail.gestore.beta.test\nOriginal-Envelope-Id: 00ff\nX-Postfix-Queue-ID: 4abc\nX-Postfix-Sender: rfc822; anna@pec.alfa.test\nArrival-Date: Tue, 13 Nov 2018 16:39:26 +0100 (CET)\n\n\
        Final-Recipient: rfc822; bruno@pec.beta.test\nOriginal-Recipient: rfc822;bruno@pec.beta.test\nAction: relayed\nStatus: 2.0.0\nRemote-MTA: dns; private/dovecot-lmtp\nDiagnostic-Code: smtp; 250 2.0.0 saved\n\n\
        Final-Recipient: rfc822; nessuno@pec.beta.test\nOriginal-Recipient: rfc822;nessuno@pec.beta.test\nAction: failed\nStatus: 5.1.1\nDiagnostic-Code: smtp; 550 5.1.1 User\n    doesn't exist\n\n\
        --B/x\nContent-Description: Message Headers\nContent-Type: text/rfc822-headers\n\nReceived: x\nMessage-ID: <pec.1@gestore.alfa.test>\n\n--B/x--\n";

    fn report() -> Report {
        parse(BODY).unwrap()
    }

    fn parse(body: &str) -> Result<Report, ReportError> {
        let header =
            "Date: Tue, 13 Nov 2018 16:39:27 +0100\r\nContent-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"B/x\"\r\n";
        let header = Header::parse(header.as_bytes()).unwrap();
        assert!(is_report(&header));
        Report::parse(&header, body.replace('\n', "\r\n").as_bytes())
    }

    #[test]
    fn a_report_that_says_less_than_it_should_is_no_report() {
        let nobody = BODY.replace("Original-Recipient: rfc822;bruno@pec.beta.test\n", "").replace("rfc822; bruno@pec.beta.test", "rfc822; bruno");
        assert!(matches!(parse(&nobody), Err(ReportError::BadRecipient(_))));
        assert!(matches!(parse(&BODY.replace("Action: relayed", "Action relayed")), Err(ReportError::BadGroup)));
        assert!(matches!(parse(&BODY.replace("Action: ", "Faction: ")), Err(ReportError::NoRecipient)));
    }

    #[test]
    fn rfc3464_fields_are_read() {
        let report = report();
        assert_eq!(report.envelope_id.as_deref(), Some("00ff"));
        assert_eq!(report.date, Some(Moment::from_unix(1_542_123_567)));
        let [delivered, failed] = &report.recipients[..] else { panic!("{:?}", report.recipients) };
        assert_eq!((delivered.recipient.as_str(), delivered.action), ("bruno@pec.beta.test", Action::Delivered));
        assert_eq!((failed.recipient.as_str(), failed.action, failed.status.as_str()), ("nessuno@pec.beta.test", Action::Failed, "5.1.1"));
        assert_eq!(failed.diagnostic, "smtp; 550 5.1.1 User    doesn't exist");
        assert_eq!(report.original_header.text("Message-ID").as_deref(), Some("<pec.1@gestore.alfa.test>"));
    }

    #[test]
    fn rfc7505_a_domain_that_takes_no_mail_has_its_own_status() {
        let status = |diagnostic: &str| {
            let report = BODY.replace("Status: 5.1.1", "Status: 5.1.0").replace("smtp; 550 5.1.1 User\n    doesn't exist", diagnostic);
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
        for text in ["Content-Type: text/plain\r\n", "Content-Type: multipart/report; report-type=disposition-notification; boundary=x\r\n", ""] {
            assert!(!is_report(&Header::parse(text.as_bytes()).unwrap()));
        }
    }
}
