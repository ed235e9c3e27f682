//! What `postfix-conf` ships, compiled in: the same text that `postfix-conf/apply` sets is what a Postfix is
//! held against.

use crate::check::look::postfix::Service;

const MAIN_CF: &str = include_str!("../../../../../postfix-conf/main.cf");
const MASTER_CF: &str = include_str!("../../../../../postfix-conf/master.cf");

/// Tables beside main.cf, which must be the shipped ones.
pub(crate) const FILES: &[(&str, &str)] =
    &[("pec-internal-domains", include_str!("../../../../../postfix-conf/pec-internal-domains"))];

/// A parameter of the shipped main.cf.
#[derive(Debug)]
pub(crate) struct Parameter {
    pub(crate) name: String,
    pub(crate) value: String,
    /// The comment above it.
    reason: String,
}

impl Parameter {
    /// The comment above it, as it stands behind what is allowed.
    pub(crate) fn because(&self) -> String {
        if self.reason.is_empty() {
            String::new()
        } else {
            format!(" ({})", self.reason.trim_end_matches('.'))
        }
    }
}

/// The shipped main.cf, our own parameters left out.
pub(crate) fn parameters() -> Vec<Parameter> {
    let (mut out, mut reason, mut in_comment) = (Vec::<Parameter>::new(), String::new(), false);
    for line in MAIN_CF.lines() {
        if let Some(comment) = line.strip_prefix('#') {
            if !in_comment {
                reason.clear();
            }
            in_comment = true;
            let comment = comment.trim().trim_start_matches("---- ");
            reason = format!("{reason} {comment}").trim().to_owned();
            continue;
        }
        in_comment = false;
        if line.trim().is_empty() {
            reason.clear();
        } else if line.starts_with([' ', '\t']) {
            if let Some(last) = out.last_mut() {
                last.value = format!("{} {}", last.value, line.trim());
            }
        } else if let Some((name, value)) = line.split_once('=') {
            out.push(Parameter {
                name: name.trim().to_owned(),
                value: value.trim().to_owned(),
                reason: reason.clone(),
            });
        }
    }
    out.retain(|p| !p.name.starts_with("pec_"));
    out
}

/// The shipped master.cf.
pub(crate) fn services() -> Vec<Service> {
    let mut lines: Vec<String> = Vec::new();
    for line in MASTER_CF.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()) {
        match lines.last_mut().filter(|_| line.starts_with([' ', '\t'])) {
            Some(last) => *last += line,
            None => lines.push(line.to_owned()),
        }
    }
    lines.iter().filter_map(|line| service(line)).collect()
}

fn service(line: &str) -> Option<Service> {
    let mut words = line.split_whitespace();
    let (name, kind) = (words.next()?.to_owned(), words.next()?.to_owned());
    let processes = words.nth(4)?.parse().ok();
    let program = words.next()?.to_owned();
    let options = words
        .filter(|&w| w != "-o")
        .filter_map(|w| w.split_once('='))
        .map(|(n, v)| (n.to_owned(), v.to_owned()))
        .collect();
    Some(Service { name, kind, program, processes, options })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::look::postfix;

    #[test]
    fn the_shipped_files_are_read_with_their_reasons() {
        let parameters = parameters();
        let of = |name: &str| parameters.iter().find(|p| p.name == name).unwrap();
        assert_eq!((of("relayhost").value.as_str(), of("recipient_delimiter").value.as_str()), ("", ""));
        assert!(of("recipient_delimiter").reason.starts_with("A certified mailbox is a mailbox"));
        assert!(of("transport_maps").value.starts_with("inline:{ {"));
        assert_eq!(
            FILES.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
            postfix::FILES,
            "all are looked at"
        );
        let services = services();
        let submission = services.iter().find(|s| s.name == "submission").unwrap();
        assert_eq!((submission.kind.as_str(), submission.program.as_str()), ("inet", "smtpd"));
        assert_eq!(submission.option("smtpd_tls_security_level"), Some("encrypt"));
        let outgoing = services.iter().find(|s| s.name == "pecoutgoing").unwrap();
        assert_eq!(
            (outgoing.id().as_str(), outgoing.option("smtpd_milters")),
            ("pecoutgoing/unix", Some(""))
        );
        assert!(outgoing.processes.is_some() && submission.processes.is_none());
        assert_eq!(
            services.iter().find(|s| s.name == "cleanup-access").unwrap().option("message_drop_headers"),
            Some("")
        );
    }
}
