//! Bringing a trigger to Postfix's own smtpd on loopback: as much SMTP as that takes (RFC 5321, RFC 3461).
//!
//! Promise: `Ok` means that smtpd said 250 at the end of the message, which it does when what pec-notices made of it is in the
//! queue. Anything else is an error, and nothing is known.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long Postfix may take to answer. pec-notices signs before the last answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// More bytes than a reply of smtpd has.
const REPLY_LIMIT: u64 = 64 * 1024;

/// What [`SmtpError::Refused`] names where the refusal is pec-notices' own, about this trigger.
pub const MESSAGE: &str = "the message";

/// Why a trigger is not known to be taken.
#[derive(Debug, thiserror::Error)]
pub enum SmtpError {
    /// No conversation, or it broke off.
    #[error("smtpd at {address}: {trouble}")]
    Broken {
        /// `pec_notices_smtpd`.
        address: SocketAddr,
        /// What happened.
        trouble: String,
    },
    /// Another answer than the one that means yes.
    #[error("smtpd at {address} answers {command}: {reply}")]
    Refused {
        /// `pec_notices_smtpd`.
        address: SocketAddr,
        /// To what.
        command: String,
        /// Its last line.
        reply: String,
    },
}

/// Whether smtpd, and pec-notices behind it, would take a message from `sender` now. Nothing is sent.
pub async fn ready(address: SocketAddr, hostname: &str, sender: &str) -> Result<(), SmtpError> {
    let (mut smtp, _) = Conversation::begin(address, hostname).await?;
    smtp.ask(&format!("MAIL FROM:<{sender}>"), "250").await?;
    let _ = smtp.write("QUIT\r\n").await;
    Ok(())
}

/// Brings a message from `sender` to one `recipient` (both without brackets). `text` is header and body, in CRLF lines none
/// of which begins with a dot.
pub async fn send(address: SocketAddr, hostname: &str, sender: &str, recipient: &str, text: &str) -> Result<(), SmtpError> {
    let (mut smtp, offers) = Conversation::begin(address, hostname).await?;
    // Never NEVER: see pec_milter::NOTIFY_FAILURE.
    let notify = if offers.iter().any(|line| line.eq_ignore_ascii_case("DSN")) { format!(" {}", pec_milter::NOTIFY_FAILURE) } else { String::new() };
    smtp.ask(&format!("MAIL FROM:<{sender}>"), "250").await?;
    smtp.ask(&format!("RCPT TO:<{recipient}>{notify}"), "250").await?;
    smtp.ask("DATA", "354").await?;
    smtp.write(&format!("{text}.\r\n")).await?;
    smtp.expect(MESSAGE, "250").await?;
    // It is taken; how the conversation ends makes no difference.
    let _ = smtp.write("QUIT\r\n").await;
    Ok(())
}

struct Conversation {
    address: SocketAddr,
    stream: BufReader<TcpStream>,
}

impl Conversation {
    /// Connects and says EHLO; gives back what the server offers.
    async fn begin(address: SocketAddr, hostname: &str) -> Result<(Self, Vec<String>), SmtpError> {
        let broken = |trouble: String| SmtpError::Broken { address, trouble };
        let stream = timeout(PATIENCE, TcpStream::connect(address)).await;
        let stream = stream.map_err(|_| broken("does not answer".to_owned()))?.map_err(|e| broken(e.to_string()))?;
        let mut smtp = Self { address, stream: BufReader::new(stream) };
        smtp.expect("the connection", "220").await?;
        let offers = smtp.ask(&format!("EHLO {hostname}"), "250").await?;
        Ok((smtp, offers))
    }

    async fn ask(&mut self, command: &str, code: &str) -> Result<Vec<String>, SmtpError> {
        self.write(&format!("{command}\r\n")).await?;
        self.expect(command, code).await
    }

    async fn write(&mut self, text: &str) -> Result<(), SmtpError> {
        let written = timeout(PATIENCE, self.stream.get_mut().write_all(text.as_bytes())).await;
        written.map_err(|_| self.broken("does not read"))?.map_err(|e| self.broken(&e.to_string()))
    }

    /// The lines of a reply without their code, if it has that code.
    async fn expect(&mut self, command: &str, code: &str) -> Result<Vec<String>, SmtpError> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            let mut limited = (&mut self.stream).take(REPLY_LIMIT);
            let read = timeout(PATIENCE, limited.read_line(&mut line)).await;
            match read.map_err(|_| self.broken("does not answer"))?.map_err(|e| self.broken(&e.to_string()))? {
                0 => return Err(self.broken("closed the connection")),
                _ if lines.len() > 100 => return Err(self.broken("goes on without end")),
                _ => {}
            }
            if !line.ends_with('\n') {
                return Err(self.broken("broke off in the middle of a reply"));
            }
            let line = line.trim_end();
            if !line.starts_with(code) {
                return Err(SmtpError::Refused { address: self.address, command: command.to_owned(), reply: line.to_owned() });
            }
            lines.push(line.get(code.len() + 1..).unwrap_or_default().to_owned());
            if line.as_bytes().get(code.len()) != Some(&b'-') {
                return Ok(lines);
            }
        }
    }

    fn broken(&self, trouble: &str) -> SmtpError {
        SmtpError::Broken { address: self.address, trouble: trouble.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use tokio::net::TcpListener;

    /// A server that says these lines, each after one of the client's (the first at once), then closes. What the client says
    /// after DATA is one line of its own, the dot. Gives back its address and what it heard.
    async fn server(replies: &'static [&'static str]) -> (SocketAddr, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = tokio::spawn(async move {
            let mut stream = BufReader::new(listener.accept().await.unwrap().0);
            let mut heard = Vec::new();
            for reply in replies {
                stream.write_all(reply.as_bytes()).await.unwrap();
                let end = if reply.starts_with("354") { ".\r\n" } else { "\r\n" };
                let mut text = String::new();
                while !text.ends_with(end) && stream.read_line(&mut text).await.unwrap() > 0 {}
                heard.push(text);
            }
            heard
        });
        (address, heard)
    }

    async fn trigger(address: SocketAddr) -> Result<(), SmtpError> {
        send(address, "mail.alfa.test", "posta-certificata@gestore.alfa.test", "x+00@notices.pec.internal", "Subject: x\r\n\r\nx\r\n").await
    }

    #[tokio::test]
    async fn rfc3461_failure_is_asked_for_where_the_server_offers_it() {
        let (address, heard) =
            server(&["220 x\r\n", "250-x\r\n250-SIZE 10\r\n250 DSN\r\n", "250 ok\r\n", "250 ok\r\n", "354 go\r\n", "250 ok\r\n"]).await;
        trigger(address).await.unwrap();
        assert_eq!(
            heard.await.unwrap(),
            [
                "EHLO mail.alfa.test\r\n",
                "MAIL FROM:<posta-certificata@gestore.alfa.test>\r\n",
                "RCPT TO:<x+00@notices.pec.internal> NOTIFY=FAILURE\r\n",
                "DATA\r\n",
                "Subject: x\r\n\r\nx\r\n.\r\n",
                "QUIT\r\n",
            ]
        );
        let (address, heard) = server(&["220 x\r\n", "250 x\r\n", "250 ok\r\n", "250 ok\r\n", "354 go\r\n", "250 ok\r\n"]).await;
        trigger(address).await.unwrap();
        assert_eq!(heard.await.unwrap()[2], "RCPT TO:<x+00@notices.pec.internal>\r\n");
    }

    #[tokio::test]
    async fn nothing_but_250_at_the_end_is_yes() {
        for (replies, says) in [
            (&["421 busy\r\n"][..], "answers the connection: 421 busy"),
            (&["220 x\r\n", "250 x\r\n", "451 4.7.1 no milter\r\n"], "answers MAIL FROM:<posta-certificata@gestore.alfa.test>: 451 4.7.1 no milter"),
            (&["220 x\r\n", "250 x\r\n", "250 ok\r\n", "250 ok\r\n", "354 go\r\n", "451 4.7.1 wait\r\n"], "answers the message: 451 4.7.1 wait"),
            (&["220 x\r\n", "250 x\r\n", "250 ok\r\n", "250 ok\r\n", "354 go\r\n"], "closed the connection"),
            (&["220 x\r\n", "hello\r\n"], "answers EHLO mail.alfa.test: hello"),
        ] {
            let (address, heard) = server(replies).await;
            let error = trigger(address).await.unwrap_err().to_string();
            assert!(error.starts_with(&format!("smtpd at {address}")) && error.contains(says), "{error}");
            heard.abort();
        }
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert!(matches!(trigger(nobody).await, Err(SmtpError::Broken { .. })));
    }
}
