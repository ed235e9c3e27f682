//! What an earlier design needed and nothing needs any more, where it would do harm if it were still set.
//!
//! Promise: [`FORMER_PARAMETERS`] and [`LIST`] are all of it; no other place knows these names.

use crate::check::finding::Finding;
use crate::check::look::Seen;
use crate::check::look::postfix::{FORMER_PARAMETERS, Service};

/// Where something may be left.
enum Place {
    /// A parameter of Postfix with this in its value, in main.cf or for a service.
    Postfix(&'static str, &'static str),
    /// A service in master.cf.
    Service(&'static str),
    /// A setting of Dovecot whose path begins so and ends so.
    Dovecot(&'static str, &'static str),
    /// A setting of Dovecot with this in its value.
    InDovecot(&'static str),
}

const UNKNOWN: &str = "absent: the programs know it no more and do not start";
const COMMANDS: &str = "empty: what a client says stays as he said it";
const AROUND: &str = "empty: it sends mail past pec-delivery, which alone certifies what a mailbox answers";
const ROUTE: &str =
    "without ricezione.pec.internal: what goes to mailboxes of ours goes to pec-delivery and nowhere else";
const UNSEEN: &str = "absent: whoever reaches it puts into the queue what no milter has seen";
const READS_ALL: &str = "absent: whoever reaches it and has its key reads every mailbox";
const MARK: &str =
    "absent: no program writes or reads this mark any more, so whoever writes it is somebody else";

const LIST: &[(Place, &str)] = &[
    // pec-notify-both and pec-notify-failure rewrote RCPT TO; so may any other.
    (Place::Postfix("smtpd_command_filter", ""), COMMANDS),
    // It looked for X-Pec-Notice; whatever it looks for, it may have sent elsewhere, or dropped.
    (Place::Postfix("milter_header_checks", ""), AROUND),
    (Place::Postfix("transport_maps", "ricezione.pec.internal"), ROUTE),
    (Place::Service("127.0.0.1:10025/inet"), UNSEEN),
    (Place::Service("127.0.0.1:10026/inet"), UNSEEN),
    (Place::Dovecot("doveadm_api_key", ""), READS_ALL),
    (Place::Dovecot("doveadm_password", ""), READS_ALL),
    (Place::Dovecot("service doveadm/inet_listener ", "/port"), READS_ALL),
    (Place::InDovecot("X-Pec-Custody"), MARK),
    (Place::InDovecot("X-Pec-Notice"), MARK),
];

/// Whether a service (`name/type`) is one of those that nothing needs.
pub(crate) fn has_service(id: &str) -> bool {
    LIST.iter().any(|(place, _)| matches!(place, Place::Service(name) if *name == id))
}

pub(crate) fn leftovers(seen: &Seen) -> Vec<Finding> {
    let parameters = FORMER_PARAMETERS.iter().filter_map(|name| parameter(seen, name));
    parameters.chain(LIST.iter().flat_map(|(place, allowed)| of(seen, place, allowed))).collect()
}

/// A parameter of ours that is no more, and set in main.cf.
fn parameter(seen: &Seen, name: &str) -> Option<Finding> {
    let value = seen.postfix.main(name);
    (!value.is_empty()).then(|| Finding::wrong(name, value, UNKNOWN, format!("postconf -X {name}")))
}

fn of(seen: &Seen, place: &Place, allowed: &str) -> Vec<Finding> {
    let postfix = &seen.postfix;
    let of_dovecot = |is_it: &dyn Fn(&str, &str) -> bool| -> Vec<Finding> {
        let written = seen.dovecot.as_ref().map(|d| d.written.as_slice()).unwrap_or_default();
        let found = written.iter().filter(|s| is_it(&s.path, &s.value));
        // What may be a secret is not shown.
        let finding = |path: &str| {
            Finding::wrong(format!("Dovecot: {path}"), "set", allowed, "remove it from dovecot.conf")
        };
        found.map(|s| finding(&s.path)).collect()
    };
    let has = |value: &str, part: &str| value.to_ascii_lowercase().contains(&part.to_ascii_lowercase());
    match place {
        Place::Postfix(name, part) => {
            let set = postfix
                .everywhere(name)
                .into_iter()
                .filter(|(value, _)| !value.is_empty() && has(value, part));
            let finding = |(value, service): (&str, Option<&Service>)| match service.map(Service::id) {
                None => Finding::wrong(
                    *name,
                    value,
                    allowed,
                    format!("postconf -X {name}, then postfix-conf/apply"),
                ),
                Some(id) => Finding::wrong(
                    format!("master.cf {id}: -o {name}"),
                    value,
                    allowed,
                    format!("postconf -PX '{id}/{name}'"),
                ),
            };
            set.map(finding).collect()
        }
        Place::Service(id) => {
            let is_there = id.rsplit_once('/').is_some_and(|(name, kind)| postfix.has_service(name, kind));
            is_there
                .then(|| {
                    Finding::wrong(format!("master.cf {id}"), "there", allowed, format!("postconf -MX {id}"))
                })
                .into_iter()
                .collect()
        }
        Place::Dovecot(start, end) => of_dovecot(&|path, value| {
            path.starts_with(start) && path.ends_with(end) && !matches!(value, "" | "0")
        }),
        Place::InDovecot(part) => of_dovecot(&|_, value| has(value, part)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::judge::postfix;
    use crate::check::look::dovecot::Dovecot;
    use crate::check::look::postfix::Postfix;
    use crate::check::sample::{seen, shipped_dovecot, shipped_postfix, with_written};

    fn found(postfix: Postfix, dovecot: Option<Dovecot>) -> Vec<String> {
        let mut seen = seen(postfix);
        seen.dovecot = dovecot.ok_or_else(|| "doveconf: not here".to_owned());
        leftovers(&seen).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_shipped_configuration_has_none() {
        assert_eq!(found(shipped_postfix(), None), Vec::<String>::new());
        for version in ["2.3", "2.4"] {
            assert_eq!(found(shipped_postfix(), Some(shipped_dovecot(version))), Vec::<String>::new());
        }
    }

    #[test]
    fn what_is_left_of_it_in_postfix_is_named() {
        for name in FORMER_PARAMETERS {
            let found = found(shipped_postfix().with(name, "/x"), None);
            let says = format!(
                "wrong: {name} = /x: it must be absent: the programs know it no more and do not start. \
                Mend: postconf -X {name}"
            );
            assert_eq!(found, [says]);
        }
        for (name, value, says) in [
            (
                "smtpd_command_filter",
                "regexp:/etc/postfix/pec-notify-both",
                "empty: what a client says stays as he said it",
            ),
            ("smtpd_command_filter", "regexp:/x", "empty: what a client says stays as he said it"),
            (
                "milter_header_checks",
                "regexp:{{/^X-Pec-Notice:/ FILTER lmtp:unix:private/x}}",
                "empty: it sends mail past pec-delivery",
            ),
            (
                "transport_maps",
                "inline:{ricezione.pec.internal=x:[127.0.0.1]:10026}",
                "without ricezione.pec.internal: ",
            ),
        ] {
            let found = found(shipped_postfix().with(name, value), None);
            assert!(
                found.len() == 1
                    && found[0].starts_with(&format!("wrong: {name} = {value}: it must be {says}")),
                "{found:?}"
            );
        }
        let option = shipped_postfix().with_option(
            "submission/inet",
            "smtpd_command_filter",
            Some("regexp:/etc/postfix/pec-notify-failure"),
        );
        assert!(
            found(option, None)[0].ends_with("Mend: postconf -PX 'submission/inet/smtpd_command_filter'")
        );
        for name in ["127.0.0.1:10025", "127.0.0.1:10026"] {
            let found = found(shipped_postfix().with_service(name, "smtpd"), None);
            assert!(
                found.len() == 1 && found[0].ends_with(&format!("Mend: postconf -MX {name}/inet")),
                "{found:?}"
            );
            let all = postfix::listeners(&seen(shipped_postfix().with_service(name, "smtpd")));
            assert!(all.is_empty(), "named once: {all:?}");
        }
    }

    #[test]
    fn what_is_left_of_it_in_dovecot_is_named_without_its_secrets() {
        let left = "doveadm_api_key = Geheim1\nservice doveadm {\n  inet_listener http {\n    address = \
            127.0.0.1\n    port = 8080\n  }\n}\n";
        let found_ = found(shipped_postfix(), Some(with_written(left)));
        assert!(
            found_.len() == 2
                && found_[0].starts_with(
                    "wrong: Dovecot: doveadm_api_key = set: it must be absent: whoever reaches it"
                ),
            "{found_:?}"
        );
        assert!(
            found_[1].starts_with("wrong: Dovecot: service doveadm/inet_listener http/port = set"),
            "{found_:?}"
        );
        assert!(!found_.concat().contains("Geheim1"));
        let harmless = "service doveadm {\n  inet_listener http {\n    port = 0\n  }\n}\n";
        assert!(found(shipped_postfix(), Some(with_written(harmless))).is_empty());
        let cached = with_written("mail_always_cache_fields = hdr.x-pec-custody\n");
        assert!(
            found(shipped_postfix(), Some(cached))[0]
                .starts_with("wrong: Dovecot: mail_always_cache_fields = set")
        );
    }
}
