//! Where the DNS sends mail for our domains.

use crate::check::finding::Finding;
use crate::check::look::Seen;

/// The DNS sends mail for our domains to us.
pub(crate) fn mx(seen: &Seen) -> Vec<Finding> {
    let Ok(ours) = &seen.ours else { return Vec::new() };
    if !seen.postfix.asks_dns() {
        let why = "smtp_dns_support_level = disabled: this Postfix finds other servers without the DNS, so \
            it was not asked";
        return vec![Finding::not_seen("the MX of our domains", why, "")];
    }
    let mut names: Vec<&str> = ours.mx_hosts.iter().map(String::as_str).collect();
    names.sort_unstable();
    let allowed = format!(
        "{} (myhostname and pec_mx_hosts): mail for a certified domain comes here and nowhere else",
        names.join(" or ")
    );
    let mut out = Vec::new();
    for (domain, hosts) in &seen.mx {
        let what = format!("the MX of {domain}");
        match hosts {
            Err(why) => out.push(Finding::not_seen(what, why, "")),
            Ok(hosts) if hosts.is_empty() => {
                out.push(Finding::wrong(what, "none", &allowed, "set it in the DNS"))
            }
            Ok(hosts) => {
                let foreign = hosts.iter().filter(|host| !ours.mx_hosts.contains(*host));
                out.extend(foreign.map(|host| {
                    Finding::wrong(
                        &what,
                        host,
                        &allowed,
                        "change it in the DNS, or name the host in pec_mx_hosts",
                    )
                }));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::sample::{self, lines, shipped_postfix};

    #[test]
    fn the_shipped_configuration_is_good() {
        assert_eq!(lines(mx(&sample::seen(shipped_postfix()))), Vec::<String>::new());
    }

    #[test]
    fn a_foreign_mx_is_named_and_a_look_up_that_fails_is_said() {
        let mut seen = sample::seen(shipped_postfix());
        seen.mx = vec![
            ("a.test".into(), Ok(vec!["mail.gestore.alfa.test".into(), "mx.elsewhere.test".into()])),
            ("b.test".into(), Ok(Vec::new())),
            ("c.test".into(), Err("192.0.2.1 does not answer".into())),
        ];
        let found = lines(mx(&seen));
        assert_eq!(found.len(), 3);
        assert!(found[0].starts_with(
            "wrong: the MX of a.test = mx.elsewhere.test: it must be \
            mail.gestore.alfa.test (myhostname and pec_mx_hosts)"
        ));
        assert!(found[1].starts_with("wrong: the MX of b.test = none"));
        assert_eq!(found[2], "not seen: the MX of c.test: 192.0.2.1 does not answer");
        let without = sample::seen(shipped_postfix().with("smtp_dns_support_level", "disabled"));
        assert!(
            lines(mx(&without))[0]
                .starts_with("not seen: the MX of our domains: smtp_dns_support_level = disabled")
        );
    }
}
