//! Keys, certificates and the CAs' revocation lists.

use pec_core::smime::own::WARN_DAYS;

use crate::check::finding::Finding;
use crate::check::look::Seen;
use crate::check::look::files::Certificate;

/// How long before its end a certificate is named, in days. Ours that signs is when the log warns of it.
const DAYS: i64 = 30;

/// What the milters read at their start, who owns it, and when it ends.
pub(crate) fn keys(seen: &Seen) -> Vec<Finding> {
    if seen.ours.is_err() {
        return Vec::new();
    }
    let mut out = Vec::new();
    if let (Ok(()), Err(error)) = (&seen.database, &seen.world) {
        out.push(Finding::of_error(error));
    }
    out.extend(seen.row_keys.as_ref().err().map(|error| Finding::of_error(error)));
    let user = seen.milters_user();
    for file in &seen.private_files {
        let Ok((mode, uid)) = file.state else { continue };
        let path = file.path.display();
        if mode & 0o077 != 0 {
            let mend = format!("chmod go= {path}");
            out.push(Finding::wrong(
                file.parameter,
                format!("{path}, mode {:o}", mode & 0o7777),
                "for the user of the milters alone",
                mend,
            ));
        }
        if user.is_some_and(|user| user != uid) {
            let allowed = format!(
                "owned by the user of the milters, as pec_infected_store is ({})",
                user.unwrap_or_default()
            );
            out.push(Finding::wrong(
                file.parameter,
                format!("{path}, owner {uid}"),
                allowed,
                format!("chown {} {path}", user.unwrap_or_default()),
            ));
        }
    }
    for Certificate { parameter, whose, end } in &seen.certificates {
        let days = (end.unix() - seen.now.unix()).div_euclid(86_400);
        let least = if parameter == "pec_certificate_file" { WARN_DAYS } else { DAYS };
        if days < least {
            let value = if days < 0 {
                format!("{whose}, ended {end}")
            } else {
                format!("{whose}, ends {end}, in {days} days")
            };
            out.push(Finding::wrong(
                parameter,
                value,
                format!("valid for {least} days at least"),
                "get a new certificate",
            ));
        }
    }
    out
}

/// The CAs' revocation lists: for one that is missing or too old mail waits.
pub(crate) fn crls(seen: &Seen) -> Vec<Finding> {
    let known = match &seen.crls {
        Ok(known) => known,
        Err(error) => return vec![Finding::of_error(error)],
    };
    let mut out = Vec::new();
    for (url, until) in known {
        let value = match until {
            None => "nothing has come yet".to_owned(),
            Some(until) if *until < seen.now => format!("too old since {until}"),
            Some(_) => continue,
        };
        let allowed =
            "there and not too old: mail of the providers whose certificates name it waits (pec_crl_too_old)";
        out.push(Finding::wrong(
            format!("the CRL {url}"),
            value,
            allowed,
            "pecctl crl refresh, which says why it does not come",
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use pec_core::clock::Moment;

    use super::*;
    use crate::check::sample::found;

    #[test]
    fn where_all_is_well_nothing_is_found() {
        assert_eq!(found(keys, |_| {}), Vec::<String>::new());
        assert_eq!(found(crls, |_| {}), Vec::<String>::new());
    }

    #[test]
    fn an_error_of_the_programs_themselves_is_repeated() {
        let found = found(keys, |seen| seen.world = Err("pec_ca_file = x: no".into()));
        assert_eq!(found, ["wrong: pec_ca_file = x: no"]);
    }

    #[test]
    fn a_key_that_others_read_and_a_certificate_near_its_end_are_named() {
        assert!(
            found(keys, |seen| seen.private_files[0].state = Ok((0o100_640, 100)))[0]
                .contains("pec_signing_key = /etc/pec/key.pem, mode 640")
        );
        assert!(
            found(keys, |seen| seen.private_files[0].state = Ok((0o100_600, 0)))[0]
                .ends_with("Mend: chown 100 /etc/pec/key.pem")
        );
        let rows = |mode, uid| found(keys, |seen| seen.private_files[1].state = Ok((mode, uid)));
        assert!(rows(0o100_640, 100)[0].contains(
            "pec_row_keys_file = /etc/pec/row.keys, mode 640: it must be for the user of the milters alone"
        ));
        assert!(rows(0o100_600, 0)[0].contains(
            "pec_row_keys_file = /etc/pec/row.keys, owner 0: it must be owned by the user of the milters"
        ));
        let in_days = |days: i64| {
            found(keys, |seen| seen.certificates[0].end = Moment::from_unix(seen.now.unix() + days * 86_400))
        };
        assert!(
            in_days(59)[0].contains("in 59 days: it must be valid for 60 days at least"),
            "{:?}",
            in_days(59)
        );
        assert!(in_days(60).is_empty());
        assert!(in_days(-1)[0].contains("ended"));
        let tls = |days: i64| {
            found(keys, |seen| {
                seen.certificates[0] = Certificate {
                    parameter: "smtpd_tls_cert_file".into(),
                    whose: "tls.pem".into(),
                    end: Moment::from_unix(seen.now.unix() + days * 86_400),
                }
            })
        };
        assert!(
            tls(29)[0].contains("in 29 days: it must be valid for 30 days at least") && tls(30).is_empty()
        );
    }

    #[test]
    fn keys_of_the_rows_that_are_missing_or_none_are_named_once() {
        let error = "pec_row_keys_file = /etc/pec/row.keys: line 1 is not 64 hexadecimal digits";
        let broken = |seen: &mut Seen| {
            seen.row_keys = Err(error.into());
            seen.database = Err(error.into());
        };
        assert_eq!(found(keys, broken), [format!("wrong: {error}")]);
    }

    #[test]
    fn a_crl_for_which_mail_waits_is_named() {
        let of = |until: Option<i64>| {
            found(crls, |seen| {
                seen.crls = Ok(vec![("http://ca.test/crl".into(), until.map(Moment::from_unix))])
            })
        };
        assert!(
            of(None)[0]
                .starts_with("wrong: the CRL http://ca.test/crl = nothing has come yet: it must be there")
        );
        assert!(
            of(Some(1_000_000_000))[0]
                .starts_with("wrong: the CRL http://ca.test/crl = too old since 2001-09-09")
        );
        assert_eq!(
            found(crls, |seen| seen.crls = Err("pec_crl_directory = /x: no".into())),
            ["wrong: pec_crl_directory = /x: no"]
        );
    }
}
