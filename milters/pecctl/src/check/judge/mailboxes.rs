//! The mailbox server, whatever it is: its 250 is what a receipt certifies.
//!
//! Promise: a server that may say 250 without the message being in the mailbox is named, as far as it can be
//! told from what it says; of one that is not known it is said that it is not.

use pec_host::parameters::Socket;

use crate::check::finding::Finding;
use crate::check::judge::sockets::{is_loopback, somebody_else};
use crate::check::look::Seen;
use crate::check::look::sockets::{Answer, Listener};

/// What `pec_mailbox_lmtp` must be.
const ALLOWED: &str = "the mailbox server's own LMTP: a receipt certifies that what it answers with 250 is \
    stored and can be read";

/// Who answers for the mailboxes, and which mailboxes there are.
pub(crate) fn mailboxes(seen: &Seen) -> Vec<Finding> {
    let mut out = Vec::new();
    for endpoint in seen.endpoints.iter().filter(|endpoint| endpoint.listener == Listener::MailboxServer) {
        let mend = format!(
            "postconf -e '{} = unix:pec/...', where the mailbox server listens (dovecot-conf)",
            endpoint.parameter
        );
        let wrong = |value: String| Finding::wrong(endpoint.parameter, value, ALLOWED, &mend);
        if let Some(other) = somebody_else(seen, &endpoint.socket) {
            out.push(wrong(format!("{}, which is {other}", endpoint.socket)));
            continue;
        }
        let Ok(said) = &endpoint.answer else { continue };
        if !said.greeting.starts_with("220") {
            out.push(wrong(format!("{}, which greets with {}", endpoint.socket, said.greeting)));
        } else if is_relay(said) {
            out.push(wrong(format!("{}, where an SMTP server answers ({})", endpoint.socket, said.greeting)));
        } else if !said.lhlo.starts_with("250") {
            out.push(wrong(format!("{}, where LHLO is answered with {}", endpoint.socket, said.lhlo)));
        } else if !is_dovecot(seen, &endpoint.socket, said) {
            let why = format!(
                "{}, where {} answers, which is not Dovecot: whether its 250 means stored",
                endpoint.socket, said.greeting
            );
            out.push(Finding::not_seen(
                endpoint.parameter,
                why,
                "make sure that it keeps no queue, runs no scripts of users and hands nothing on",
            ));
        } else if let Some(why) = configured_elsewhere(seen, &endpoint.socket) {
            let why = format!("{}: {why}: whether its 250 means stored", endpoint.socket);
            out.push(Finding::not_seen(endpoint.parameter, why, "run this where its configuration is"));
        }
    }
    match &seen.nobody {
        Some((address, Ok(true))) => {
            let allowed = "refused (550 5.1.1): who takes mail for every address only hands it on, or has a \
                catch-all";
            let mend = "have the mailbox server know its mailboxes";
            out.push(Finding::wrong(
                "pec_mailbox_lmtp",
                format!("a server that takes mail for {address}, a mailbox that nobody has"),
                allowed,
                mend,
            ));
        }
        Some((address, Err(why))) => out.push(Finding::not_seen(
            format!("whether {address} is refused, a mailbox that nobody has"),
            why,
            "",
        )),
        Some((_, Ok(false))) | None => {}
    }
    for (address, there) in &seen.mailboxes {
        match there {
            Ok(true) => {}
            Ok(false) => {
                let mend = format!("pecctl user add {address} --generate");
                out.push(Finding::wrong(
                    address,
                    "no mailbox",
                    "a mailbox: what other providers send it must arrive",
                    mend,
                ));
            }
            Err(why) => out.push(Finding::not_seen(format!("the mailbox {address}"), why, "")),
        }
    }
    out
}

/// Who speaks SMTP takes mail into a queue, and 250 says no more than that.
fn is_relay(said: &Answer) -> bool {
    // Behind the code and the host's name.
    let server = said.greeting.splitn(3, ' ').nth(2).unwrap_or_default().to_ascii_lowercase();
    server.contains("smtp") || server.contains("postfix")
}

/// Dovecot says so, or has this listener.
fn is_dovecot(seen: &Seen, socket: &Socket, said: &Answer) -> bool {
    said.greeting.contains("Dovecot") || has_listener(seen, socket)
}

fn has_listener(seen: &Seen, socket: &Socket) -> bool {
    matches!((&seen.dovecot, socket), (Ok(dovecot), Socket::Unix(path)) if dovecot.has_listener(path))
}

/// Why what `doveconf` says here is not about the Dovecot that answers. That there is none here is said by
/// the check of Dovecot.
fn configured_elsewhere(seen: &Seen, socket: &Socket) -> Option<&'static str> {
    match (&seen.dovecot, socket) {
        (Err(_), _) => None,
        (Ok(_), Socket::Inet(address)) if !is_loopback(address) => Some("a Dovecot on another host"),
        (Ok(_), Socket::Inet(_)) => None,
        (Ok(_), Socket::Unix(_)) if has_listener(seen, socket) => None,
        (Ok(_), Socket::Unix(_)) => Some("no listener of the Dovecot that doveconf tells of"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::sample::{seen, shipped_dovecot, shipped_postfix};

    fn found(change: impl FnOnce(&mut Seen)) -> Vec<String> {
        let mut seen = seen(shipped_postfix());
        change(&mut seen);
        mailboxes(&seen).iter().map(ToString::to_string).collect()
    }

    fn says(greeting: &str, lhlo: &str) -> impl FnOnce(&mut Seen) {
        move |seen| {
            let endpoint =
                seen.endpoints.iter_mut().find(|endpoint| endpoint.parameter == "pec_mailbox_lmtp").unwrap();
            endpoint.answer = Ok(Answer { greeting: greeting.into(), lhlo: lhlo.into() });
        }
    }

    fn listens_at(socket: Socket) -> impl FnOnce(&mut Seen) {
        move |seen| {
            seen.endpoints
                .iter_mut()
                .find(|endpoint| endpoint.parameter == "pec_mailbox_lmtp")
                .unwrap()
                .socket = socket
        }
    }

    #[test]
    fn the_shipped_configuration_is_good() {
        assert_eq!(found(|_| {}), Vec::<String>::new());
        for version in ["2.3", "2.4"] {
            assert_eq!(found(|seen| seen.dovecot = Ok(shipped_dovecot(version))), Vec::<String>::new());
        }
    }

    #[test]
    fn a_relay_or_a_spool_behind_the_lmtp_is_named() {
        for (greeting, lhlo, says_) in [
            (
                "220 mail.gestore.alfa.test ESMTP Postfix (Debian)",
                "502 5.5.2 Error: command not recognized",
                "where an SMTP server answers",
            ),
            ("220 [127.0.0.1] ESMTP amavisd-new service ready", "250-x", "where an SMTP server answers"),
            (
                "220 mail.alfa.test",
                "502 5.5.2 Error: command not recognized",
                "where LHLO is answered with 502",
            ),
            ("554 no", "250 x", "which greets with 554 no"),
        ] {
            let found = found(says(greeting, lhlo));
            assert!(
                found.len() == 1
                    && found[0]
                        .starts_with("wrong: pec_mailbox_lmtp = unix:/var/spool/postfix/pec/dovecot-lmtp, "),
                "{found:?}"
            );
            assert!(
                found[0].contains(says_) && found[0].contains("it must be the mailbox server's own LMTP"),
                "{found:?}"
            );
        }
        for (path, says) in [
            (
                "/var/spool/postfix/pec/delivery",
                "/var/spool/postfix/pec/delivery, which is pec_delivery_lmtp: it must be",
            ),
            (
                "/var/spool/postfix/public/pecoutgoing",
                "/var/spool/postfix/public/pecoutgoing, which is pec_outgoing_smtpd: it must be",
            ),
            (
                "/var/spool/postfix/private/pecdelivery",
                "/var/spool/postfix/private/pecdelivery, which is the service pecdelivery/unix of Postfix: \
                it must be",
            ),
        ] {
            let found = found(listens_at(Socket::Unix(path.into())));
            assert!(found.len() == 1 && found[0].contains(says), "{found:?}");
        }
        let taken = found(|seen| seen.nobody = Some(("1a2b@gestore.alfa.test".into(), Ok(true))));
        assert!(taken[0].starts_with(
            "wrong: pec_mailbox_lmtp = a server that takes mail for \
            1a2b@gestore.alfa.test, a mailbox that nobody has"
        ));
    }

    #[test]
    fn another_mailbox_server_may_stand_there_but_is_not_called_good() {
        assert!(found(says("220 smtp.gestore.alfa.test Dovecot ready.", "250-smtp")).is_empty());
        let cyrus = found(says("220 mail Cyrus LMTP ready", "250-mail"));
        let says_ = "not seen: pec_mailbox_lmtp: unix:/var/spool/postfix/pec/dovecot-lmtp, where 220 mail \
            Cyrus LMTP ready answers, which is not Dovecot";
        assert!(cyrus.len() == 1 && cyrus[0].starts_with(says_), "{cyrus:?}");
        // Dovecot's greeting can be set (login_greeting).
        assert!(
            found(|seen| {
                seen.dovecot = Ok(shipped_dovecot("2.4"));
                says("220 mail ready", "250-mail")(seen);
            })
            .is_empty()
        );
    }

    #[test]
    fn a_dovecot_whose_configuration_is_elsewhere_is_said() {
        let with = |socket| {
            found(|seen| {
                seen.dovecot = Ok(shipped_dovecot("2.4"));
                listens_at(socket)(seen);
            })
        };
        assert!(
            with(Socket::Inet("10.0.0.7:24".into()))[0]
                .contains("a Dovecot on another host: whether its 250 means stored")
        );
        assert!(with(Socket::Inet("127.0.0.1:24".into())).is_empty());
        assert!(
            with(Socket::Unix("/srv/other/lmtp".into()))[0]
                .contains("no listener of the Dovecot that doveconf tells of")
        );
    }

    #[test]
    fn the_mailboxes_that_the_rules_want_exist() {
        let missing = found(|seen| seen.mailboxes[0].1 = Ok(false));
        assert!(
            missing[0].starts_with(
                "wrong: posta-certificata@gestore.alfa.test = no mailbox: it must be a \
                    mailbox"
            ),
            "{missing:?}"
        );
        assert!(missing[0].ends_with("Mend: pecctl user add posta-certificata@gestore.alfa.test --generate"));
        assert!(
            found(|seen| seen.mailboxes[0].1 = Err("x".into()))[0]
                .starts_with("not seen: the mailbox posta-certificata@")
        );
        assert!(
            found(|seen| seen.nobody = Some(("x@a.test".into(), Err("no".into()))))[0]
                .starts_with("not seen: whether x@a.test is refused")
        );
    }
}
