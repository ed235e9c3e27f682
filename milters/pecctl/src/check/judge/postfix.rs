//! Postfix, held against what `postfix-conf` ships.

use crate::check::finding::Finding;
use crate::check::judge::leftovers;
use crate::check::judge::shipped;
use crate::check::look::Seen;
use crate::check::look::postfix::{Postfix, Service};
use pec_host::postfix::milters;

/// What a value may be where it need not be the shipped one.
enum Rule {
    /// Looked at elsewhere, or free.
    Free,
    Among(&'static [&'static str]),
    Begins(&'static str),
    AtLeast(u64),
    /// Seconds, from and to.
    Seconds(u64, u64),
    /// Not with this in it.
    Without(&'static str),
    /// With every word of the shipped one, and others.
    AllWords,
    /// More than `message_size_limit`.
    AboveMessages,
}

const TLS: &[&str] = &[">=TLSv1.2", ">=TLSv1.3"];
const HOUR: u64 = 3600;

/// Parameters of the shipped main.cf and master.cf that may differ from them, and how far. All others must be
/// as they are there.
const MAY_DIFFER: &[(&str, Rule)] = &[
    ("milter_protocol", Rule::AtLeast(6)),
    ("authorized_submit_users", Rule::Without("static:")),
    // Whom they concern is looked at by the check of the maps.
    ("virtual_alias_maps", Rule::Free),
    ("transport_maps", Rule::Free),
    ("local_transport", Rule::Begins("error:")),
    ("pecdelivery_destination_concurrency_limit", Rule::Among(&["2", "1"])),
    ("smtpd_discard_ehlo_keywords", Rule::AllWords),
    ("bounce_size_limit", Rule::AboveMessages),
    // Must fit to pec_message_size_limit, which the programs themselves see to.
    ("message_size_limit", Rule::Free),
    ("mailbox_size_limit", Rule::Free),
    ("virtual_mailbox_limit", Rule::Free),
    ("hopcount_limit", Rule::AtLeast(100)),
    ("maximal_queue_lifetime", Rule::Seconds(22 * HOUR, 24 * HOUR)),
    ("bounce_queue_lifetime", Rule::Seconds(22 * HOUR, 24 * HOUR)),
    ("maximal_backoff_time", Rule::Seconds(1, HOUR / 4)),
    ("delay_warning_time", Rule::Seconds(0, 0)),
    ("smtpd_forbid_bare_newline", Rule::Among(&["normalize", "yes", "reject"])),
    (
        "smtpd_relay_restrictions",
        Rule::Among(&["reject_unauth_destination", "defer_unauth_destination", "reject"]),
    ),
    ("smtpd_client_connection_count_limit", Rule::AtLeast(1)),
    ("smtpd_sasl_type", Rule::Free),
    ("smtpd_sasl_path", Rule::Free),
    ("smtpd_tls_security_level", Rule::Among(&["may", "encrypt"])),
    (
        "smtp_tls_security_level",
        Rule::Among(&["may", "encrypt", "dane", "dane-only", "verify", "secure", "fingerprint"]),
    ),
    ("smtpd_tls_protocols", Rule::Among(TLS)),
    ("smtpd_tls_mandatory_protocols", Rule::Among(TLS)),
    ("smtp_tls_protocols", Rule::Among(TLS)),
    ("smtp_tls_mandatory_protocols", Rule::Among(TLS)),
    ("smtpd_tls_exclude_ciphers", Rule::Begins("aNULL, kRSA, SHA1")),
    ("smtpd_tls_mandatory_exclude_ciphers", Rule::Begins("SHA256, SHA384")),
    ("smtp_tls_mandatory_exclude_ciphers", Rule::Begins("aNULL, kRSA, SHA1")),
];

/// A time of Postfix's in seconds; `unit` is the unit of those without one.
pub(crate) fn seconds(text: &str, unit: char) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, written) = text.split_at(digits);
    let unit =
        if written.is_empty() { unit } else { written.chars().next().filter(|_| written.len() == 1)? };
    let unit = match unit {
        's' => 1,
        'm' => 60,
        'h' => HOUR,
        'd' => 24 * HOUR,
        'w' => 7 * 24 * HOUR,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// The unit of a time without one (postconf(5)).
fn unit_of(name: &str) -> char {
    match name {
        "maximal_queue_lifetime" | "bounce_queue_lifetime" => 'd',
        "delay_warning_time" => 'h',
        _ => 's',
    }
}

/// What `value` would have to be; `None`: it is good.
fn judge(postfix: &Postfix, name: &str, value: &str, shipped: &str) -> Option<String> {
    let rule = MAY_DIFFER.iter().find(|(n, _)| *n == name).map(|(_, rule)| rule);
    let (good, allowed) = match rule {
        None if shipped.is_empty() => (value.is_empty(), "empty".to_owned()),
        None => (words(value) == words(shipped), shipped.to_owned()),
        Some(Rule::Free) => (true, String::new()),
        Some(Rule::Among(values)) => (values.contains(&value), values.join(" or ")),
        Some(Rule::Begins(start)) => (value.starts_with(start), format!("{start}...")),
        Some(Rule::AtLeast(least)) => {
            (value.parse::<u64>().is_ok_and(|n| n >= *least), format!("at least {least}"))
        }
        Some(Rule::Seconds(least, most)) => {
            let good = seconds(value, unit_of(name)).is_some_and(|s| (least..=most).contains(&&s));
            (good, if least == most { format!("{least}s") } else { format!("from {least}s to {most}s") })
        }
        Some(Rule::Without(part)) => (!value.contains(part), format!("a value without {part}")),
        Some(Rule::AllWords) => (has_words(value, shipped), shipped.to_owned()),
        Some(Rule::AboveMessages) => {
            // 0 is no limit to messages; it is no number that bounce(8) starts with.
            let most = postfix
                .main("message_size_limit")
                .parse()
                .ok()
                .filter(|&n| n > 0)
                .unwrap_or(i32::MAX as u64 - 1);
            (value.parse::<u64>().is_ok_and(|n| n > most), format!("more than message_size_limit, {most}"))
        }
    };
    (!good).then_some(allowed)
}

/// Who fetches the directory is in the network, and sends to its providers over TLS or not at all.
pub(crate) fn tls_policy(seen: &Seen) -> Vec<Finding> {
    let postfix = &seen.postfix;
    let maps = postfix.main("smtp_tls_policy_maps");
    let allowed = "a table of what pecctl directory tls-policy prints: towards other providers mail waits \
        for TLS (RFC 6109 s. 5.3)";
    let mend = "see \"The directory of providers\" in docs/configuration.md";
    match &seen.tls_levels {
        _ if maps.is_empty() && postfix.main("pec_directory_url").is_empty() => Vec::new(),
        _ if maps.is_empty() => vec![Finding::wrong("smtp_tls_policy_maps", "", allowed, mend)],
        Ok(levels) => {
            let wants_tls = |level: &String| {
                matches!(level.as_str(), "encrypt" | "dane-only" | "fingerprint" | "verify" | "secure")
            };
            let domains: Vec<&String> = levels
                .iter()
                .filter(|(_, levels)| !levels.iter().any(wants_tls))
                .map(|(domain, _)| domain)
                .collect();
            if domains.is_empty() {
                return Vec::new();
            }
            let value = format!(
                "{maps}, without {} domains of other providers, such as {}",
                domains.len(),
                domains[0]
            );
            vec![Finding::wrong(
                "smtp_tls_policy_maps",
                value,
                allowed,
                "pecctl directory tls-policy --write FILE",
            )]
        }
        Err(why) => vec![Finding::not_seen("smtp_tls_policy_maps", why, "")],
    }
}

/// What postfix-conf/main.cf sets, in main.cf and wherever a service says otherwise.
pub(crate) fn main_cf(seen: &Seen) -> Vec<Finding> {
    let postfix = &seen.postfix;
    let mut out = Vec::new();
    for parameter in shipped::parameters() {
        let name = parameter.name.as_str();
        let shipped = postfix.expanded(&parameter.value);
        let reason = parameter.because();
        for (value, service) in postfix.everywhere(name) {
            let Some(allowed) = judge(postfix, name, value, &shipped) else { continue };
            let mend = if MAY_DIFFER.iter().any(|(n, _)| *n == name) { &parameter.value } else { &shipped };
            match service {
                None => out.push(Finding::wrong(
                    name,
                    value,
                    format!("{allowed}{reason}"),
                    format!("postconf -e '{name} = {mend}'"),
                )),
                // The listeners' check knows which of them may say otherwise, the services' check what these
                // must say.
                Some(s) if s.program == "smtpd" && shipped_options().contains(&name.to_owned()) => {}
                Some(s)
                    if shipped::services().iter().any(|t| t.id() == s.id() && t.option(name).is_some()) => {}
                Some(s) => out.push(overridden(s, name, value, &format!("{allowed}{reason}"))),
            }
        }
    }
    out
}

/// A service says otherwise than main.cf.
fn overridden(service: &Service, name: &str, value: &str, allowed: &str) -> Finding {
    let id = service.id();
    Finding::wrong(
        format!("master.cf {id}: -o {name}"),
        value,
        allowed,
        format!("postconf -PX '{id}/{name}'"),
    )
}

/// Parameters that the shipped listeners set.
fn shipped_options() -> Vec<String> {
    shipped::services()
        .into_iter()
        .filter(|s| s.program == "smtpd")
        .flat_map(|s| s.options)
        .map(|(name, _)| name)
        .collect()
}

/// The services that are not listeners.
pub(crate) fn services(seen: &Seen) -> Vec<Finding> {
    let postfix = &seen.postfix;
    let mut out = Vec::new();
    for shipped in shipped::services().iter().filter(|s| s.program != "smtpd") {
        let id = shipped.id();
        let Some(service) = postfix.services.iter().find(|s| s.id() == id) else {
            out.push(Finding::wrong(
                format!("master.cf {id}"),
                "missing",
                "there, as in postfix-conf/master.cf",
                "postfix-conf/apply",
            ));
            continue;
        };
        if service.program != shipped.program {
            let what = format!("master.cf {id}: command");
            out.push(Finding::wrong(
                what,
                &service.program,
                format!("{}, as in postfix-conf/master.cf", shipped.program),
                "postfix-conf/apply",
            ));
        }
        out.extend(options(postfix, service, shipped, &[]));
    }
    for service in postfix.services.iter().filter(|s| s.program == "qmqpd") {
        let id = service.id();
        out.push(Finding::wrong(
            format!("master.cf {id}"),
            "qmqpd",
            "absent: what comes by QMQP passes pec_reports_milter as if Postfix had written it",
            format!("postconf -MX {id}"),
        ));
    }
    for (name, content) in shipped::FILES {
        match &seen.files.get(*name) {
            Some(Ok(found)) if found == content => {}
            Some(Ok(_)) => {
                out.push(Finding::wrong(*name, "changed", "the file of postfix-conf", "postfix-conf/apply"))
            }
            Some(Err(e)) => {
                out.push(Finding::wrong(*name, e, "the file of postfix-conf", "postfix-conf/apply"))
            }
            None => {}
        }
    }
    out
}

/// Options of a shipped service that are not in force.
fn options(postfix: &Postfix, service: &Service, shipped: &Service, left_out: &[&str]) -> Vec<Finding> {
    let id = service.id();
    let mut out = Vec::new();
    for (name, value) in
        shipped.options.iter().filter(|(n, _)| n != "syslog_name" && !left_out.contains(&n.as_str()))
    {
        let wanted = postfix.expanded(value);
        let found = postfix.of(service, name);
        let good = match name.as_str() {
            // Further restrictions may follow; ours stands among them.
            "smtpd_recipient_restrictions" if !wanted.is_empty() => {
                words(found).windows(words(&wanted).len()).any(|w| w == words(&wanted))
            }
            // More may be kept from clients, but DSN not from pec-delivery.
            "smtpd_discard_ehlo_keywords" => {
                has_words(found, &wanted) && has_words(found, "dsn") == has_words(&wanted, "dsn")
            }
            _ => words(found) == words(&wanted),
        };
        if !good {
            let allowed = if wanted.is_empty() {
                "empty, as in postfix-conf/master.cf".to_owned()
            } else {
                format!("{wanted}, as in postfix-conf/master.cf")
            };
            // As postfix-conf/apply writes it, for the reason that it gives.
            let value = value.replace("$config_directory", postfix.main("config_directory"));
            out.push(Finding::wrong(
                format!("master.cf {id}: {name}"),
                found,
                allowed,
                format!("postconf -P '{id}/{name}={value}'"),
            ));
        }
    }
    out
}

fn words(text: &str) -> Vec<&str> {
    text.split(|c: char| c == ',' || c.is_whitespace()).filter(|w| !w.is_empty()).collect()
}

/// Whether all words of `part` are in a list, in either case.
fn has_words(list: &str, part: &str) -> bool {
    words(part).iter().all(|word| words(list).iter().any(|w| w.eq_ignore_ascii_case(word)))
}

/// The shipped smtpd for notices to other providers, which has no milter.
fn is_outgoing(shipped: &Service) -> bool {
    shipped.kind == "unix" && shipped.option("smtpd_milters") == Some("")
}

/// The service whose socket `pec_outgoing_smtpd` names: Postfix makes sockets in these two directories and
/// nowhere else.
fn outgoing_name(postfix: &Postfix) -> Option<&str> {
    let path = postfix.main("pec_outgoing_smtpd").strip_prefix("unix:")?;
    let below = path
        .strip_prefix(postfix.main("queue_directory"))
        .map_or(path, |below| below.trim_start_matches('/'));
    below.strip_prefix("public/").or_else(|| below.strip_prefix("private/"))
}

/// The way out of notices: no milter, and nothing that keeps one from leaving.
fn outgoing(postfix: &Postfix, service: &Service, shipped: &Service) -> Vec<Finding> {
    let mut out = options(postfix, service, shipped, &[]);
    let default = postfix.main("default_process_limit").parse().unwrap_or(100);
    let (processes, least) = (service.processes.unwrap_or(default), shipped.processes.unwrap_or_default());
    if processes != 0 && processes < least {
        let id = service.id();
        let allowed = format!(
            "at least {least}: pec-delivery keeps its connections, and stands still where there is one \
            process too few"
        );
        let mend = format!("postconf -F {id}/process_limit={least}");
        out.push(Finding::wrong(
            format!("master.cf {id}: process_limit"),
            processes.to_string(),
            allowed,
            mend,
        ));
    }
    out
}

/// What the shipped port 25 has.
fn milter_of_port25(shipped: &[Service]) -> String {
    let port25 = shipped.iter().find(|s| s.name == "smtp");
    port25.and_then(|s| s.option("smtpd_milters")).unwrap_or_default().to_owned()
}

/// Every smtpd: which of our milters it has, and that it is set as that one must be.
pub(crate) fn listeners(seen: &Seen) -> Vec<Finding> {
    let postfix = &seen.postfix;
    let (ways_out, shipped): (Vec<Service>, Vec<Service>) =
        shipped::services().into_iter().filter(|s| s.program == "smtpd").partition(is_outgoing);
    let milter_of = |s: &Service| s.option("smtpd_milters").unwrap_or_default().to_owned();
    let mut out = Vec::new();
    let mut present = Vec::new();
    let way_out = outgoing_name(postfix);
    if !postfix
        .services
        .iter()
        .any(|s| s.program == "smtpd" && s.kind == "unix" && Some(s.name.as_str()) == way_out)
    {
        let value = postfix.main("pec_outgoing_smtpd");
        let allowed = "the socket of an smtpd as postfix-conf/master.cf has it: by it notices leave for \
            other providers";
        out.push(Finding::wrong("pec_outgoing_smtpd", value, allowed, "postfix-conf/apply"));
    }
    for service in
        postfix.services.iter().filter(|s| s.program == "smtpd" && !leftovers::has_service(&s.id()))
    {
        let id = service.id();
        let like_shipped = |shipped: &&Service| {
            service.kind == "unix" && (Some(service.name.as_str()) == way_out || service.name == shipped.name)
        };
        if let Some(shipped) = ways_out.iter().find(like_shipped) {
            out.extend(outgoing(postfix, service, shipped));
            continue;
        }
        let value = postfix.of(service, "smtpd_milters");
        let last = milters(value).pop();
        let namesake = shipped.iter().find(|s| s.name == service.name && s.kind == service.kind);
        let wrappermode = |s: &Service| s.option("smtpd_tls_wrappermode") == Some("yes");
        // Like a namesake with the same milter, if there is one; a listener with TLS from the start is like
        // the one that ships.
        let socket =
            |s: &Service| milters(&postfix.expanded(&milter_of(s))).pop().map(|milter| milter.socket);
        let like = |s: &&Service| last.as_ref().is_some_and(|last| Some(&last.socket) == socket(s).as_ref());
        let template = namesake
            .filter(like)
            .or_else(|| {
                shipped
                    .iter()
                    .filter(like)
                    .find(|s| wrappermode(s) == (postfix.of(service, "smtpd_tls_wrappermode") == "yes"))
            })
            .or_else(|| shipped.iter().find(like));
        let Some(template) = template else {
            let wanted = namesake.map_or_else(|| milter_of_port25(&shipped), milter_of);
            present.extend(namesake.map(milter_of));
            out.push(Finding::wrong(
                format!("master.cf {id}: smtpd_milters"),
                value,
                format!(
                    "{} at the end: without the milter mail comes in unchecked and is certified by nobody",
                    postfix.expanded(&wanted)
                ),
                format!("postconf -P '{id}/smtpd_milters={wanted}'"),
            ));
            continue;
        };
        let milter = milter_of(template);
        present.push(milter.clone());
        // Another milter may stand before pec-incoming; a submission or a trigger comes as it is.
        let left_out: &[&str] = if milter.contains("pec_incoming_milter") { &["smtpd_milters"] } else { &[] };
        out.extend(options(postfix, service, template, left_out));
        out.extend(overrides(postfix, service, template));
    }
    // Without a milter that main.cf has before ours mail waits, too.
    for way in postfix.ways_past().into_iter().filter(|way| way.what.contains("default action")) {
        let allowed = "tempfail: without the milter mail comes in unchecked and is certified by nobody";
        out.push(Finding::wrong(way.what, way.value, allowed, way.mend));
    }
    for template in &shipped {
        let milter = milter_of(template);
        if !present.contains(&milter) {
            present.push(milter.clone());
            let id = format!("{}/{}", template.name, template.kind);
            out.push(Finding::wrong(
                format!("master.cf {id}"),
                "missing",
                format!("there: no smtpd has {milter}"),
                "postfix-conf/apply",
            ));
        }
    }
    out
}

/// What only other listeners may say otherwise than main.cf: who may relay, TLS, passwords, what clients are
/// told of DSN.
fn overrides(postfix: &Postfix, service: &Service, template: &Service) -> Vec<Finding> {
    let of_others = shipped_options();
    let mut out = Vec::new();
    for parameter in shipped::parameters()
        .iter()
        .filter(|p| of_others.contains(&p.name) && template.option(&p.name).is_none())
    {
        let Some(value) = service.option(&parameter.name) else { continue };
        if let Some(allowed) = judge(postfix, &parameter.name, value, &postfix.expanded(&parameter.value)) {
            out.push(overridden(
                service,
                &parameter.name,
                value,
                &format!("{allowed}{}", parameter.because()),
            ));
        }
    }
    out
}

/// Times and limits that contradict each other.
pub(crate) fn times(seen: &Seen) -> Vec<Finding> {
    // Name, its unit, from, to (seconds), why.
    const TIMES: &[(&str, u64, u64, &str)] = &[
        ("queue_run_delay", 1, HOUR / 4, "the end of a message's time is seen at an attempt only"),
        ("minimal_backoff_time", 1, HOUR / 4, "the end of a message's time is seen at an attempt only"),
        ("milter_content_timeout", 300, 10 * HOUR, "a milter may wait 240 s for clamd"),
        ("milter_connect_timeout", 10, HOUR, "a milter that is busy is not one that is down"),
        ("milter_command_timeout", 30, HOUR, "a milter that is busy is not one that is down"),
    ];
    let mut out = Vec::new();
    for (name, least, most, why) in TIMES {
        let value = seen.postfix.main(name);
        if !seconds(value, 's').is_some_and(|s| (least..=most).contains(&&s)) {
            let mend =
                if value.is_empty() || seconds(value, 's').is_some_and(|s| s > *most) { most } else { least };
            out.push(Finding::wrong(
                *name,
                value,
                format!("from {least}s to {most}s ({why})"),
                format!("postconf -e '{name} = {mend}s'"),
            ));
        }
    }
    let limit = |name: &str| seen.postfix.main(name).parse::<u64>().unwrap_or(u64::MAX);
    if limit("header_size_limit") < 60_000 {
        let value = seen.postfix.main("header_size_limit");
        let allowed = "at least 60000: a header that Postfix cuts is refused, and RFC 6109 has long ones";
        out.push(Finding::wrong("header_size_limit", value, allowed, "postconf -X header_size_limit"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::sample::{seen, shipped_postfix};

    fn found(postfix: Postfix) -> Vec<String> {
        let seen = seen(postfix);
        [main_cf, services, listeners, times]
            .iter()
            .flat_map(|check| check(&seen))
            .map(|f| f.to_string())
            .collect()
    }

    #[test]
    fn rfc6109_5_3_who_fetches_the_directory_has_a_tls_policy() {
        let says = |postfix| tls_policy(&seen(postfix)).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(says(shipped_postfix()).is_empty());
        let fetches = || shipped_postfix().with("pec_directory_url", "https://indice.example/igpec.p7m");
        assert!(
            says(fetches())[0]
                .starts_with("wrong: smtp_tls_policy_maps is empty: it must be a table of what pecctl")
        );
        let with_table = || fetches().with("smtp_tls_policy_maps", "lmdb:/etc/postfix/pec-tls-policy");
        assert!(says(with_table()).is_empty());
        let mut stale = seen(with_table());
        let levels = |levels: &[&str]| levels.iter().map(|&level| level.to_owned()).collect();
        stale.tls_levels = Ok([
            ("altro.example".into(), levels(&["may", "encrypt"])),
            ("nuovo.example".into(), levels(&[])),
            ("pec.beta.test".into(), levels(&["may"])),
        ]
        .into());
        let finding = tls_policy(&stale)[0].to_string();
        assert!(
            finding.contains(
                "pec-tls-policy, without 2 domains of other providers, such as nuovo.example: it must be"
            ),
            "{finding}"
        );
    }

    #[test]
    fn the_shipped_configuration_is_good() {
        assert_eq!(found(shipped_postfix()), Vec::<String>::new());
    }

    #[test]
    fn whatever_makes_a_certified_mailbox_something_else_is_named() {
        for (name, value, mend) in [
            ("virtual_alias_domains", "pec.alfa.test", ""),
            ("canonical_maps", "/etc/postfix/canonical", ""),
            ("recipient_canonical_maps", "hash:/x", ""),
            ("sender_canonical_maps", "hash:/x", ""),
            ("recipient_delimiter", "+", "postconf -e 'recipient_delimiter = '"),
            ("mydestination", "localhost", ""),
            ("relay_domains", "x.test", ""),
            ("relayhost", "[relay.test]", "postconf -e 'relayhost = '"),
            ("smtp_fallback_relay", "[relay.test]", ""),
            ("sender_dependent_relayhost_maps", "hash:/x", ""),
            ("sender_dependent_default_transport_maps", "hash:/x", ""),
            ("default_transport", "smtp:[relay.test]", "postconf -e 'default_transport = smtp'"),
            ("content_filter", "amavis:[127.0.0.1]:10024", ""),
            ("always_bcc", "archive@x.test", ""),
            ("sender_bcc_maps", "hash:/x", ""),
            ("recipient_bcc_maps", "hash:/x", ""),
            ("header_checks", "regexp:/x", ""),
            ("mime_header_checks", "regexp:/x", ""),
            ("nested_header_checks", "regexp:/x", ""),
            ("body_checks", "regexp:/x", ""),
            ("smtp_header_checks", "regexp:/x", ""),
            ("smtp_body_checks", "regexp:/x", ""),
            ("smtp_generic_maps", "hash:/x", ""),
            ("masquerade_domains", "alfa.test", ""),
            ("relocated_maps", "hash:/x", ""),
            ("receive_override_options", "no_milters", ""),
            ("smtpd_proxy_filter", "127.0.0.1:10024", ""),
            ("milter_default_action", "accept", "postconf -e 'milter_default_action = tempfail'"),
            (
                "non_smtpd_milters",
                "",
                "postconf -e 'non_smtpd_milters = {unix:pec/reports,default_action=tempfail}'",
            ),
            ("internal_mail_filter_classes", "", ""),
            (
                "virtual_transport",
                "virtual",
                "postconf -e 'virtual_transport = pecdelivery:unix:pec/delivery'",
            ),
            (
                "virtual_transport",
                "lmtp:unix:pec/dovecot-lmtp",
                "postconf -e 'virtual_transport = pecdelivery:unix:pec/delivery'",
            ),
            ("virtual_transport", "pecdelivery:unix:pec/dovecot-lmtp", ""),
            ("lmtp_discard_lhlo_keywords", "dsn", "postconf -e 'lmtp_discard_lhlo_keywords = '"),
            ("smtpd_discard_ehlo_keywords", "", ""),
            (
                "smtpd_discard_ehlo_keywords",
                "chunking, silent-discard",
                "postconf -e 'smtpd_discard_ehlo_keywords = dsn, silent-discard'",
            ),
            ("smtpd_discard_ehlo_keyword_address_maps", "inline:{10.0.0.7=pipelining}", ""),
            ("bounce_size_limit", "0", ""),
            ("bounce_size_limit", "50000", "postconf -e 'bounce_size_limit = 2147483647'"),
            ("bounce_size_limit", "33554432", ""),
            ("pecdelivery_destination_recipient_limit", "50", ""),
            ("pecdelivery_destination_recipient_limit", "", ""),
            ("pecdelivery_destination_concurrency_limit", "20", ""),
            ("pectriggers_destination_recipient_limit", "50", ""),
            ("lmtp_line_length_limit", "998", ""),
            ("maximal_queue_lifetime", "5d", "postconf -e 'maximal_queue_lifetime = 1d'"),
            ("bounce_queue_lifetime", "0", ""),
            ("maximal_backoff_time", "4000s", "postconf -e 'maximal_backoff_time = 15m'"),
            ("delay_warning_time", "4h", "postconf -e 'delay_warning_time = 0'"),
            ("queue_run_delay", "1h", "postconf -e 'queue_run_delay = 60s'"),
            ("milter_content_timeout", "60s", "postconf -e 'milter_content_timeout = 300s'"),
            ("header_size_limit", "10000", ""),
            ("smtpd_tls_security_level", "", ""),
            ("smtp_tls_protocols", ">=TLSv1", ""),
        ] {
            let found = found(shipped_postfix().with(name, value));
            let line = found.first().unwrap_or_else(|| panic!("{name} = {value} is not named"));
            let start = if value.is_empty() {
                format!("wrong: {name} is empty: it must be ")
            } else {
                format!("wrong: {name} = {value}: it must be ")
            };
            assert!(line.starts_with(&start) && line.ends_with(mend), "{line}");
        }
    }

    #[test]
    fn what_may_differ_is_not_named() {
        for (name, value) in [
            ("maximal_queue_lifetime", "23h"),
            ("maximal_queue_lifetime", "1"),
            ("maximal_backoff_time", "600"),
            ("hopcount_limit", "120"),
            ("smtpd_discard_ehlo_keywords", "DSN, chunking silent-discard"),
            ("internal_mail_filter_classes", "bounce,notify"),
            ("bounce_size_limit", "33554433"),
            ("pecdelivery_destination_concurrency_limit", "1"),
            ("smtpd_tls_security_level", "encrypt"),
            ("smtp_tls_security_level", "dane"),
            ("smtpd_tls_protocols", ">=TLSv1.3"),
            ("message_size_limit", "60000000"),
            ("message_size_limit", "0"),
            ("authorized_submit_users", "root, monitor"),
        ] {
            assert_eq!(found(shipped_postfix().with(name, value)), Vec::<String>::new(), "{name} = {value}");
        }
    }

    #[test]
    fn a_service_that_undoes_main_cf_is_named() {
        let found =
            found(shipped_postfix().with_option("smtp/inet", "content_filter", Some("x:")).with_option(
                "smtp/unix",
                "smtp_header_checks",
                Some("regexp:/x"),
            ));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].starts_with("wrong: master.cf smtp/inet: -o content_filter = x:: it must be empty"),
            "{found:?}"
        );
        assert!(found[1].ends_with("Mend: postconf -PX 'smtp/unix/smtp_header_checks'"), "{found:?}");
    }

    #[test]
    fn a_listener_without_its_milter_tls_or_passwords_is_named() {
        for (service, option, value, says) in [
            (
                "smtp/inet",
                "smtpd_milters",
                None,
                "Mend: postconf -P 'smtp/inet/smtpd_milters={${pec_incoming_milter?",
            ),
            (
                "smtp/inet",
                "smtpd_milters",
                Some("unix:pec/incoming inet:rspamd.test:11332"),
                "{unix:pec/incoming,default_action=tempfail} at the end",
            ),
            ("smtp/inet", "smtpd_tls_security_level", Some("none"), "may or encrypt"),
            (
                "smtp/inet",
                "smtpd_sasl_auth_enable",
                Some("yes"),
                "it must be no (Passwords are asked for by submission alone",
            ),
            (
                "smtp/inet",
                "smtpd_relay_restrictions",
                Some("permit_mynetworks, reject_unauth_destination"),
                "it must be reject_unauth_destination or",
            ),
            (
                "smtp/inet",
                "smtpd_discard_ehlo_keywords",
                Some("chunking"),
                "it must be dsn, silent-discard (DSN is what our milters say",
            ),
            ("smtp/inet", "smtpd_forbid_bare_newline", Some("no"), "it must be normalize or yes or reject"),
            (
                "submission/inet",
                "smtpd_discard_ehlo_keywords",
                Some("8bitmime,chunking"),
                "it must be 8bitmime,chunking,dsn,silent-discard",
            ),
            (
                "submissions/inet",
                "smtpd_discard_ehlo_keywords",
                None,
                "it must be 8bitmime,chunking,dsn,silent-discard",
            ),
            ("smtp/inet", "smtpd_recipient_restrictions", Some("permit"), "pec-internal-domains"),
            ("submission/inet", "smtpd_tls_security_level", None, "it must be encrypt, as in"),
            ("submission/inet", "smtpd_sasl_auth_enable", None, "it must be yes, as in"),
            (
                "submission/inet",
                "smtpd_relay_restrictions",
                Some("permit_mynetworks,permit_sasl_authenticated,reject"),
                "it must be permit_sasl_authenticated,reject",
            ),
            ("submissions/inet", "cleanup_service_name", None, "it must be cleanup-access"),
            (
                "submission/inet",
                "smtpd_milters",
                Some("inet:rspamd.test:11332 unix:pec/access"),
                "it must be {unix:pec/access,default_action=tempfail}",
            ),
            (
                "cleanup-access/unix",
                "message_drop_headers",
                None,
                "master.cf cleanup-access/unix: message_drop_headers",
            ),
            ("pickup/unix", "cleanup_service_name", None, "it must be cleanup-local"),
            (
                "pecdelivery/unix",
                "lmtp_data_done_timeout",
                Some("60s"),
                "master.cf pecdelivery/unix: lmtp_data_done_timeout = 60s: it must be",
            ),
            ("pecdelivery/unix", "lmtp_send_xforward_command", None, "it must be yes"),
            ("pectriggers/unix", "soft_bounce", None, "it must be yes"),
            ("bounce/unix", "cleanup_service_name", None, "it must be cleanup-reports"),
            (
                "pecoutgoing/unix",
                "smtpd_milters",
                Some("unix:pec/incoming"),
                "smtpd_milters = unix:pec/incoming: it must be empty",
            ),
            ("pecoutgoing/unix", "smtpd_relay_restrictions", None, "it must be permit_mynetworks,reject"),
            ("pecoutgoing/unix", "mynetworks", Some("0.0.0.0/0"), "it must be 127.0.0.1/32"),
            (
                "pecoutgoing/unix",
                "smtpd_discard_ehlo_keywords",
                Some("chunking,dsn,silent-discard"),
                "it must be chunking,silent-discard",
            ),
            ("pecoutgoing/unix", "smtpd_authorized_xforward_hosts", None, "it must be 127.0.0.1/32"),
            ("pecoutgoing/unix", "content_filter", Some("x:"), "-o content_filter = x:: it must be empty"),
        ] {
            // What the service does not say, main.cf says.
            let main = shipped_postfix()
                .with("smtpd_sasl_auth_enable", "no")
                .with("message_drop_headers", "bcc, content-length")
                .with("smtpd_milters", "")
                .with("cleanup_service_name", "cleanup");
            let found = found(main.with_option(service, option, value));
            assert!(found.len() == 1 && found[0].contains(says), "{service} {option} {value:?}: {found:?}");
        }
    }

    #[test]
    fn another_milter_may_stand_before_pec_incoming() {
        let milters = Some("inet:rspamd.test:11332, unix:pec/incoming");
        assert_eq!(
            found(shipped_postfix().with_option("smtp/inet", "smtpd_milters", milters)),
            Vec::<String>::new()
        );
    }

    #[test]
    fn listeners_that_nobody_shipped_are_looked_at_too() {
        let found_ = found(shipped_postfix().with_service("2525", "smtpd"));
        assert!(
            found_.len() == 1 && found_[0].starts_with("wrong: master.cf 2525/inet: smtpd_milters is empty"),
            "{found_:?}"
        );
        let reports = shipped_postfix().with_service("2525", "smtpd").with_option(
            "2525/inet",
            "smtpd_milters",
            Some("unix:pec/reports"),
        );
        assert!(found(reports)[0].starts_with(
            "wrong: master.cf 2525/inet: smtpd_milters = unix:pec/reports: it \
                must be {unix:pec/incoming,default_action=tempfail} at the end"
        ));
        let outside = shipped_postfix().with_service("pecoutgoing", "smtpd");
        assert!(
            found(outside)[0].starts_with("wrong: master.cf pecoutgoing/inet: smtpd_milters is empty"),
            "a port is no socket in public/"
        );
        assert!(
            found(shipped_postfix().with_service("628", "qmqpd"))[0].contains("master.cf 628/inet = qmqpd")
        );
        assert!(found(shipped_postfix().without_service("submission")).is_empty(), "465 is left");
        assert!(
            found(shipped_postfix().without_service("smtp"))[0]
                .contains("no smtpd has {${pec_incoming_milter?")
        );
        assert!(
            found(shipped_postfix().without_service("cleanup-local"))[0]
                .contains("master.cf cleanup-local/unix = missing")
        );
    }

    #[test]
    fn the_way_out_of_notices_is_where_the_parameter_says_and_has_room() {
        let says = "wrong: pec_outgoing_smtpd = unix:public/pecoutgoing: it must be the socket of an smtpd \
            as postfix-conf/master.cf has it";
        assert!(found(shipped_postfix().without_service("pecoutgoing"))[0].starts_with(says));
        for elsewhere in
            ["unix:public/cleanup", "unix:pec/outgoing", "unix:/run/pecoutgoing", "unix:private/other"]
        {
            let found = found(shipped_postfix().with("pec_outgoing_smtpd", elsewhere));
            assert!(
                found.len() == 1
                    && found[0].starts_with(&format!("wrong: pec_outgoing_smtpd = {elsewhere}: ")),
                "{found:?}"
            );
        }
        for here in ["unix:/var/spool/postfix/public/pecoutgoing", "unix:private/pecoutgoing"] {
            assert_eq!(found(shipped_postfix().with("pec_outgoing_smtpd", here)), Vec::<String>::new());
        }
        let few = found(shipped_postfix().with_processes("pecoutgoing", Some(4)));
        assert!(
            few.len() == 1
                && few[0].starts_with(
                    "wrong: master.cf pecoutgoing/unix: process_limit = 4: it must be at least "
                ),
            "{few:?}"
        );
        assert!(few[0].contains("Mend: postconf -F pecoutgoing/unix/process_limit="));
        for enough in [None, Some(0), Some(100)] {
            assert_eq!(found(shipped_postfix().with_processes("pecoutgoing", enough)), Vec::<String>::new());
        }
        let default =
            shipped_postfix().with_processes("pecoutgoing", None).with("default_process_limit", "5");
        assert!(found(default)[0].contains("process_limit = 5"));
    }

    #[test]
    fn times_with_and_without_units() {
        assert_eq!(
            (seconds("1d", 's'), seconds("5", 'd'), seconds("15m", 's')),
            (Some(86_400), Some(432_000), Some(900))
        );
        assert_eq!((seconds("", 's'), seconds("5x", 's'), seconds("5mm", 's')), (None, None, None));
    }
}
