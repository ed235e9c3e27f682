//! Does Dovecot store what it says it stores? Versions 2.3 and 2.4 differ in names; what one does not know is
//! not judged there.

mod guesses;
mod listeners;
mod storing;

use crate::check::finding::Finding;
use crate::check::look::Seen;

/// Settings and what they must be.
const SETTINGS: &[(&str, &[&str], &str)] = &[
    ("recipient_delimiter", &[""], "user+extension is another address, which no certified mailbox has"),
    ("lmtp_proxy", &["no"], "this Dovecot itself says that it has the message"),
    ("director_servers", &[""], "this Dovecot itself says that it has the message"),
    (
        "lmtp_save_to_detail_mailbox",
        &["no"],
        "user+extension is another address, which no certified mailbox has",
    ),
    ("lmtp_rcpt_check_quota", &["no"], "who asks whether a mailbox exists would wait while it is locked"),
    ("mail_fsync", &["always"], "delivered is what is on disk; set it in protocol lmtp"),
    (
        "auth_username_format",
        &["%Lu", "%u", "%{user | lower}", "%{user|lower}", "%{user}"],
        "an account is one address, its domain included",
    ),
    ("ssl", &["required"], "no password and no mail without TLS"),
    ("disable_plaintext_auth", &["yes"], "no password without TLS"),
    ("auth_allow_cleartext", &["no"], "no password without TLS"),
    ("auth_cache_size", &["0"], "what the cache answers is not counted as a guess"),
];

pub(crate) fn dovecot(seen: &Seen) -> Vec<Finding> {
    let dovecot = match &seen.dovecot {
        Ok(dovecot) => dovecot,
        Err(why) => return vec![Finding::not_seen("Dovecot", why, "run this where Dovecot is")],
    };
    let mut out = Vec::new();
    for (name, good, why) in SETTINGS {
        if let Some(value) = dovecot.value(name).filter(|v| !good.contains(v)) {
            let allowed = if good[0].is_empty() {
                format!("empty: {why}")
            } else {
                format!("{}: {why}", good.join(" or "))
            };
            out.push(Finding::wrong(
                format!("Dovecot: {name}"),
                value,
                allowed,
                format!("{name} = {} in dovecot.conf", good[0]),
            ));
        }
    }
    out.extend(guesses::guesses(dovecot));
    out.extend(storing::storing(dovecot));
    out.extend(listeners::listeners(seen, dovecot));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::look::dovecot::Dovecot;
    use crate::check::sample::{changed, lines, put, seen, shipped_dovecot, shipped_postfix};

    /// What is found in a Dovecot.
    pub(super) fn found(dovecot_: Dovecot) -> Vec<String> {
        let mut seen = seen(shipped_postfix());
        seen.dovecot = Ok(dovecot_);
        lines(dovecot(&seen))
    }

    #[test]
    fn the_shipped_configuration_is_good() {
        for version in ["2.3", "2.4"] {
            assert_eq!(found(shipped_dovecot(version)), Vec::<String>::new(), "{version}");
        }
    }

    #[test]
    fn a_setting_that_makes_a_mailbox_something_else_is_named() {
        for (from, to, says) in [
            (
                "recipient_delimiter = ",
                "recipient_delimiter = +",
                "wrong: Dovecot: recipient_delimiter = +: it must be empty",
            ),
            (
                "lmtp_proxy = no",
                "lmtp_proxy = yes",
                "lmtp_proxy = yes: it must be no: this Dovecot itself says",
            ),
            (
                "lmtp_rcpt_check_quota = no",
                "lmtp_rcpt_check_quota = yes",
                "lmtp_rcpt_check_quota = yes: it must be no",
            ),
            (
                "detail_mailbox = no",
                "detail_mailbox = yes",
                "lmtp_save_to_detail_mailbox = yes: it must be no",
            ),
            ("mail_fsync = always", "mail_fsync = optimized", "mail_fsync = optimized: it must be always"),
            ("%{user | lower}", "%{user | username}", "its domain included"),
            ("ssl = required", "ssl = yes", "ssl = yes: it must be required"),
            ("auth_allow_cleartext = no", "auth_allow_cleartext = yes", "no password without TLS"),
        ] {
            let found = found(changed("2.4", |lmtp, _, _| put(lmtp, from, to)));
            assert!(found.len() == 1 && found[0].contains(says), "{found:?}");
        }
        let director = found(changed("2.3", |lmtp, _, _| {
            put(lmtp, "director_servers = ", "director_servers = 10.0.0.7")
        }));
        assert!(
            director.len() == 1 && director[0].contains("director_servers = 10.0.0.7: it must be empty"),
            "{director:?}"
        );
    }

    #[test]
    fn a_dovecot_that_is_elsewhere_is_said() {
        let found = dovecot(&seen(shipped_postfix()));
        assert_eq!(
            found[0].to_string(),
            "not seen: Dovecot: doveconf: not here. Mend: run this where Dovecot is"
        );
    }
}
