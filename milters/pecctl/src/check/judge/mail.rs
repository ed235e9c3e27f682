//! Where mail goes: domains, routes, aliases, access tables.

use pec_host::parameters::split_list;

use crate::check::finding::Finding;
use crate::check::look::Seen;
use crate::check::look::postfix::{WITH_TABLES, is_table};

/// Lists of domains that make mail for them ordinary.
const ORDINARY: [&str; 3] = ["mydestination", "virtual_alias_domains", "relay_domains"];

/// Where the copies go that become notices.
const TRIGGERS: &str = "notices.pec.internal";

/// What an access table may do with certified mail: nothing of this.
const ACTIONS: [&str; 6] = ["BCC", "DISCARD", "FILTER", "HOLD", "PREPEND", "REDIRECT"];

/// A domain is certified or ordinary, and other providers know it as ours.
pub(crate) fn domains(seen: &Seen) -> Vec<Finding> {
    let Ok(ours) = &seen.ours else { return Vec::new() };
    let mut out = Vec::new();
    for list in ORDINARY {
        let value = seen.postfix.main(list);
        let tables = split_list(value).into_iter().flat_map(|entry| match seen.tables.get(&entry) {
            Some(Ok(table)) => table.iter().map(|(key, _)| key.clone()).collect(),
            _ => vec![entry],
        });
        for domain in tables.map(|d| d.to_ascii_lowercase()).filter(|d| ours.local_domains.contains(d)) {
            let allowed = format!(
                "in virtual_mailbox_domains alone: a domain is certified or ordinary, never both; {list} \
                has it too"
            );
            out.push(Finding::wrong(
                domain,
                "certified and ordinary",
                allowed,
                format!("postconf -e '{list} ='"),
            ));
        }
    }
    let Ok(directory) = &seen.directory else { return out };
    let mut domains: Vec<&String> =
        ours.local_domains.iter().filter(|d| **d != ours.service_domain).collect();
    domains.sort();
    for domain in domains {
        let what = format!("virtual_mailbox_domains: {domain}");
        let records = directory.records_of_domain(domain);
        // While it moves, it is in the other's record, too.
        if records.iter().any(|record| record.name == ours.provider_name) {
            continue;
        }
        match records.first() {
            Some(provider) => {
                let allowed = "ours in pec_directory_file too: we are not its provider";
                out.push(Finding::wrong(
                    what,
                    format!("managed by {}", provider.name),
                    allowed,
                    "take it out of virtual_mailbox_domains",
                ));
            }
            None => {
                let allowed = "in a record of pec_directory_file: to the other providers its users have no \
                    certified mailbox";
                out.push(Finding::wrong(
                    what,
                    "in no record",
                    allowed,
                    "have it published, then fetch the directory",
                ));
            }
        }
    }
    out
}

/// Bad values in the directory of providers.
pub(crate) fn directory(seen: &Seen) -> Vec<Finding> {
    let Ok(directory) = &seen.directory else { return Vec::new() };
    let finding = |what: String| {
        let allowed = "good values only; until then the record keeps its last good ones, and mail that hangs on \
            a value that never was good waits";
        Finding::wrong(
            "pec_directory_file",
            what,
            allowed,
            "tell who publishes the directory, then: pecctl directory refresh",
        )
    };
    directory.spoiled().map(finding).collect()
}

/// Routes, and what access tables do.
pub(crate) fn maps(seen: &Seen) -> Vec<Finding> {
    let mut out = Vec::new();
    let mut looked_at = std::collections::HashSet::new();
    for name in WITH_TABLES.iter().filter(|name| name.ends_with("_restrictions")) {
        for (value, service) in seen.postfix.everywhere(name) {
            let place = service.map_or((*name).to_owned(), |s| format!("master.cf {}: {name}", s.id()));
            for table in split_list(value).into_iter().filter(|w| is_table(w)) {
                if !looked_at.insert(table.clone()) {
                    continue;
                }
                match seen.tables.get(&table) {
                    Some(Ok(entries)) => out
                        .extend(entries.iter().filter_map(|(key, value)| access(&place, &table, key, value))),
                    Some(Err(why)) => out.push(Finding::not_seen(format!("{place}: {table}"), why, "")),
                    None => {}
                }
            }
        }
    }
    out.extend(routes(seen));
    out.extend(aliases(seen));
    out
}

/// `virtual_alias_maps`, wherever it is set: of certified addresses there is no alias.
fn aliases(seen: &Seen) -> Vec<Finding> {
    let Ok(ours) = &seen.ours else { return Vec::new() };
    let mut out = Vec::new();
    let myorigin = seen.postfix.main("myorigin").to_ascii_lowercase();
    if ours.local_domains.contains(&myorigin) {
        let allowed =
            "no certified domain: what this host tells root would go to a certified mailbox, from one";
        out.push(Finding::wrong("myorigin", &myorigin, allowed, "postconf -e 'myorigin = $myhostname'"));
    }
    for (value, service) in seen.postfix.everywhere("virtual_alias_maps") {
        let place = service
            .map_or("virtual_alias_maps".to_owned(), |s| format!("master.cf {}: virtual_alias_maps", s.id()));
        for table in split_list(value) {
            let keys = match seen.tables.get(&table) {
                Some(Ok(entries)) if !is_of_patterns(&table) => entries,
                _ => {
                    let allowed = "a table whose keys can be listed (inline:, texthash:, hash:, lmdb:): \
                        none may be a certified address";
                    out.push(Finding::wrong(&place, &table, allowed, "postfix-conf/apply"));
                    continue;
                }
            };
            for (key, value) in keys {
                let domain = key
                    .rsplit_once('@')
                    .map_or(if key.contains('.') { key.as_str() } else { "" }, |(_, domain)| domain);
                if ours.local_domains.contains(&domain.to_ascii_lowercase()) {
                    let allowed =
                        "absent: a certified mailbox is a mailbox, without alias, forwarding or catch-all";
                    out.push(Finding::wrong(
                        format!("{place}: {key}"),
                        value,
                        allowed,
                        format!("remove {key} from {table}"),
                    ));
                }
            }
        }
    }
    out
}

fn access(place: &str, table: &str, key: &str, value: &str) -> Option<Finding> {
    let action = value.split_whitespace().next()?.to_ascii_uppercase();
    let allowed = format!(
        "none of {}: certified mail goes where it is sent, whole, and nowhere else",
        ACTIONS.join(", ")
    );
    ACTIONS.contains(&action.as_str()).then(|| {
        Finding::wrong(
            format!("{place}: {table}: {key}"),
            value,
            allowed,
            format!("remove {key} from {table}"),
        )
    })
}

/// `transport_maps`, wherever it is set: the triggers' way is there, and nothing else concerns domains of
/// ours.
fn routes(seen: &Seen) -> Vec<Finding> {
    let Ok(ours) = &seen.ours else { return Vec::new() };
    let mut out = Vec::new();
    for (value, service) in seen.postfix.everywhere("transport_maps") {
        let place =
            service.map_or("transport_maps".to_owned(), |s| format!("master.cf {}: transport_maps", s.id()));
        let mut routes = Vec::new();
        let mut all_seen = true;
        for table in split_list(value) {
            let why = match seen.tables.get(&table) {
                Some(Ok(_)) if is_of_patterns(&table) => "patterns, which may route any address",
                Some(Ok(entries)) => {
                    routes.extend(entries.iter().cloned());
                    continue;
                }
                Some(Err(why)) => why,
                None => continue,
            };
            all_seen = false;
            out.push(Finding::not_seen(
                format!("{place}: {table}"),
                why,
                "name tables that postmap -s can list",
            ));
        }
        let wanted = format!("pectriggers:{}", seen.postfix.main("pec_triggers_lmtp"));
        let found = routes.iter().find(|(key, _)| key == TRIGGERS).map(|(_, target)| target.as_str());
        if found.is_some_and(|target| target != wanted) || (found.is_none() && all_seen) {
            let allowed = format!("{wanted}: without it no receipt is ever made");
            out.push(Finding::wrong(
                format!("{place}: {TRIGGERS}"),
                found.unwrap_or("missing"),
                allowed,
                "postfix-conf/apply",
            ));
        }
        for (key, target) in &routes {
            let domain =
                key.rsplit('@').next().unwrap_or_default().trim_start_matches('.').to_ascii_lowercase();
            let concerns_us = key == "*"
                || ours
                    .local_domains
                    .iter()
                    .any(|ours| *ours == domain || ours.ends_with(&format!(".{domain}")));
            if concerns_us {
                let allowed = "absent: what is certified goes to virtual_transport, which is pec-delivery, \
                    or to the MX of its recipient";
                out.push(Finding::wrong(
                    format!("{place}: {key}"),
                    target,
                    allowed,
                    format!("remove {key} from transport_maps"),
                ));
            }
        }
    }
    out
}

/// Whether a table has patterns instead of keys.
fn is_of_patterns(table: &str) -> bool {
    ["regexp:", "pcre:", "cidr:"].iter().any(|kind| table.starts_with(kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::look::ask::Known;
    use crate::check::look::postfix::Table;
    use crate::check::sample::{lines, seen, shipped_postfix};

    fn routes_of(seen: &mut Seen) -> &mut Known<Table> {
        seen.tables.get_mut(seen.postfix.main("transport_maps")).unwrap()
    }

    #[test]
    fn the_shipped_configuration_is_good() {
        let seen = seen(shipped_postfix());
        assert_eq!(lines([domains(&seen), maps(&seen)].concat()), Vec::<String>::new());
    }

    #[test]
    fn a_domain_is_certified_or_ordinary() {
        for list in ORDINARY {
            let found = lines(domains(&seen(shipped_postfix().with(list, "localhost, PEC.alfa.test"))));
            assert!(
                found.len() == 1
                    && found[0].starts_with("wrong: pec.alfa.test = certified and ordinary")
                    && found[0].contains(list),
                "{found:?}"
            );
        }
        let mut seen = seen(shipped_postfix().with("mydestination", "hash:/x"));
        seen.tables.insert("hash:/x".into(), Ok(vec![("pec.alfa.test".into(), String::new())]));
        assert_eq!(domains(&seen).len(), 1);
    }

    #[test]
    fn a_bad_value_of_the_directory_is_named() {
        let mut seen = seen(shipped_postfix());
        assert_eq!(lines(directory(&seen)), Vec::<String>::new());
        let ldif = "dn: providerName=Gamma\nobjectclass: provider\nproviderName: Gamma\n\
            providerCertificateHash: 00\nmailReceipt: r@gamma.test\nmanagedDomains: caffè.example\n";
        seen.directory = Ok(pec_core::directory::Directory::parse(ldif).unwrap());
        let found = lines(directory(&seen));
        assert!(
            found.len() == 2
                && found.iter().all(|line| line.starts_with("wrong: pec_directory_file = Gamma: "))
                && found[0].contains("providerCertificateHash")
                && found[1].contains("caffè.example"),
            "{found:?}"
        );
    }

    #[test]
    fn a_domain_is_ours_in_the_directory() {
        let mut seen = seen(shipped_postfix());
        seen.ours
            .as_mut()
            .unwrap()
            .local_domains
            .extend(["pec.beta.test".to_owned(), "nuovo.example".to_owned()]);
        let found = lines(domains(&seen));
        assert!(
            found[0].starts_with("wrong: virtual_mailbox_domains: nuovo.example = in no record"),
            "{found:?}"
        );
        assert!(
            found[1].starts_with("wrong: virtual_mailbox_domains: pec.beta.test = managed by Beta"),
            "{found:?}"
        );
    }

    #[test]
    fn a_route_that_concerns_certified_mail_is_named() {
        for (key, named) in [
            ("*", true),
            ("pec.alfa.test", true),
            (".alfa.test", true),
            ("anna@pec.alfa.test", true),
            ("beta.test", false),
            ("fa.test", false),
        ] {
            let mut seen = seen(shipped_postfix());
            routes_of(&mut seen).as_mut().unwrap().push((key.to_owned(), "smtp:[elsewhere.test]".to_owned()));
            let found = lines(maps(&seen));
            assert_eq!(
                found
                    .iter()
                    .any(|l| l.starts_with(&format!("wrong: transport_maps: {key} = smtp:[elsewhere.test]"))),
                named,
                "{found:?}"
            );
        }
    }

    #[test]
    fn a_missing_way_of_the_triggers_is_named() {
        let mut seen = seen(shipped_postfix());
        routes_of(&mut seen).as_mut().unwrap().remove(0);
        let says = "wrong: transport_maps: notices.pec.internal = missing: it must be \
            pectriggers:unix:pec/triggers: without it no receipt";
        assert!(lines(maps(&seen))[0].starts_with(says));
        routes_of(&mut seen)
            .as_mut()
            .unwrap()
            .push(("notices.pec.internal".into(), "smtp:[127.0.0.1]:2525".into()));
        assert!(lines(maps(&seen))[0].starts_with(
            "wrong: transport_maps: notices.pec.internal = smtp:[127.0.0.1]:2525: it must be pectriggers:"
        ));
        *routes_of(&mut seen) = Err("unsupported".into());
        assert!(lines(maps(&seen))[0].starts_with("not seen: transport_maps: "));
    }

    #[test]
    fn patterns_and_routes_of_a_single_service_are_looked_at_too() {
        let mut patterns = seen(shipped_postfix().with("transport_maps", "inline:{x=y} regexp:/x"));
        let table = |key: &str, target: &str| Ok(vec![(key.to_owned(), target.to_owned())]);
        patterns
            .tables
            .insert("inline:{x=y}".into(), table("notices.pec.internal", "pectriggers:unix:pec/triggers"));
        patterns.tables.insert("regexp:/x".into(), table("/./", "smtp:[elsewhere.test]"));
        assert!(
            lines(maps(&patterns))[0]
                .starts_with("not seen: transport_maps: regexp:/x: patterns, which may route any address")
        );
        let mut service = seen(shipped_postfix().with_option(
            "cleanup-reports/unix",
            "transport_maps",
            Some("inline:{x=y}"),
        ));
        service.tables.insert("inline:{x=y}".into(), table("pec.alfa.test", "smtp:[elsewhere.test]"));
        let found = lines(maps(&service));
        assert!(
            found[1].starts_with(
                "wrong: master.cf cleanup-reports/unix: transport_maps: pec.alfa.test = \
                smtp:[elsewhere.test]"
            ),
            "{found:?}"
        );
    }

    #[test]
    fn an_access_table_that_redirects_copies_or_drops_is_named() {
        let mut seen =
            seen(shipped_postfix().with("smtpd_sender_restrictions", "check_sender_access hash:/x, permit"));
        let entries = [
            ("a.test", "REJECT no"),
            ("b.test", "redirect archive@x.test"),
            ("c.test", "DISCARD"),
            ("d.test", "OK"),
        ];
        seen.tables.insert("hash:/x".into(), Ok(entries.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec()));
        let found = lines(maps(&seen));
        assert!(
            found.len() == 2
                && found[0].starts_with(
                    "wrong: smtpd_sender_restrictions: hash:/x: b.test = redirect archive@x.test"
                ),
            "{found:?}"
        );
        seen.tables.insert("hash:/x".into(), Err("no such file".into()));
        assert_eq!(lines(maps(&seen)), ["not seen: smtpd_sender_restrictions: hash:/x: no such file"]);
    }

    #[test]
    fn an_alias_of_a_certified_address_is_named_and_one_of_root_is_not() {
        for (key, named) in [
            ("anna@pec.alfa.test", true),
            ("@PEC.alfa.test", true),
            ("pec.alfa.test", true),
            ("webmaster", false),
            ("@posta.test", false),
        ] {
            let mut seen = seen(shipped_postfix().with("virtual_alias_maps", "hash:/x"));
            seen.tables.insert("hash:/x".into(), Ok(vec![(key.to_owned(), "carla@posta.test".to_owned())]));
            let found = lines(maps(&seen));
            assert_eq!(
                found
                    .iter()
                    .any(|l| l.starts_with(&format!("wrong: virtual_alias_maps: {key} = carla@posta.test"))),
                named,
                "{found:?}"
            );
        }
        for table in ["regexp:/x", "static:carla@posta.test"] {
            let mut seen = seen(shipped_postfix().with("virtual_alias_maps", table));
            if table.starts_with("static:") {
                seen.tables.insert(table.to_owned(), Err("unsupported".into()));
            }
            let found = lines(maps(&seen));
            assert!(found[0].contains("a table whose keys can be listed"), "{found:?}");
        }
        let found = lines(maps(&seen(shipped_postfix().with("myorigin", "pec.alfa.test"))));
        assert!(found[0].starts_with("wrong: myorigin = pec.alfa.test"), "{found:?}");
    }
}
