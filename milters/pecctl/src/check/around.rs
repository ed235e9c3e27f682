//! What stands around Postfix: our parameters, database, scanner, keys, disk, clock.

use pec_core::smime::own::WARN_DAYS;

use super::seen::Seen;
use super::{Finding, leftovers};

/// How long before its end a certificate is named, in days. Ours that signs is when the log warns of it.
const DAYS: i64 = 30;

/// Bytes that must be free where messages lie, at least.
const ROOM: u64 = 1_000_000_000;

/// How far the clock may be from UTC, in microseconds.
const CLOCK_ERROR: i64 = 1_000_000;

/// An error that says itself what is wrong and what is allowed.
fn said(error: &str) -> Finding {
    Finding::wrong(error, "", "", "")
}

/// The `pec_` parameters, and what they must be to Postfix's.
pub(super) fn parameters(seen: &Seen) -> Vec<Finding> {
    // What is left of an earlier design is named with all that is.
    let is_left = |error: &&String| {
        error.split(':').next().is_some_and(|name| leftovers::parameters().any(|left| left == name))
    };
    seen.ours.as_ref().err().filter(|error| !is_left(error)).map(|error| said(error)).into_iter().collect()
}

/// PostgreSQL and its schema.
pub(super) fn database(seen: &Seen) -> Vec<Finding> {
    if seen.ours.is_err() {
        return Vec::new();
    }
    // That the rows' keys cannot be read is said by the check of keys.
    let error = seen.database.as_ref().err().filter(|error| seen.row_keys.as_ref().err() != Some(*error));
    error.map(|error| said(error)).into_iter().collect()
}

/// clamd, its limits, its signatures.
pub(super) fn scanner(seen: &Seen) -> Vec<Finding> {
    const MEND: &str = "see The virus scanner in docs/configuration.md";
    let Ok(ours) = &seen.ours else { return Vec::new() };
    let examination = match &seen.scanner {
        None => {
            return vec![Finding::wrong(
                "pec_clamd",
                "none",
                "where clamd listens: a PEC provider scans for viruses",
                "postconf -e 'pec_clamd = unix:/run/clamav/clamd.ctl'",
            )];
        }
        Some(Err(why)) => {
            return vec![Finding::wrong("pec_clamd", why, "answered: mail waits until it is", "start clamd")];
        }
        Some(Ok(examination)) => examination,
    };
    let mut out = Vec::new();
    if let Some((size, what)) = &examination.blind {
        let allowed =
            "such that a virus in it is found: StreamMaxLength, MaxFileSize, MaxScanSize, AlertExceedsMax";
        out.push(Finding::wrong(
            "clamd's limits",
            format!("in a message of {size} bytes it {what}"),
            allowed,
            MEND,
        ));
    }
    match examination.signatures {
        None => out.push(Finding::not_seen(
            "the age of clamd's signatures",
            format!("{} names no date", examination.version),
            "",
        )),
        Some(_) if examination.is_fresh(seen.now, ours.clamd_max_age) => {}
        Some(date) => {
            let allowed =
                format!("at most {} minutes old (pec_clamd_max_age)", ours.clamd_max_age.as_secs() / 60);
            out.push(Finding::wrong(
                "clamd's signatures",
                format!("of {date}"),
                allowed,
                "start freshclam, or raise pec_clamd_max_age",
            ));
        }
    }
    out
}

/// What the milters read at their start, who owns it, and when it ends.
pub(super) fn keys(seen: &Seen) -> Vec<Finding> {
    if seen.ours.is_err() {
        return Vec::new();
    }
    let mut out = Vec::new();
    if let (Ok(()), Err(error)) = (&seen.database, &seen.world) {
        out.push(said(error));
    }
    out.extend(seen.row_keys.as_ref().err().map(|error| said(error)));
    let user = seen.milters_user();
    for owned in &seen.owned {
        let Ok((mode, uid)) = owned.state else { continue };
        let path = owned.path.display();
        if mode & 0o077 != 0 {
            let mend = format!("chmod go= {path}");
            out.push(Finding::wrong(
                owned.parameter,
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
                owned.parameter,
                format!("{path}, owner {uid}"),
                allowed,
                format!("chown {} {path}", user.unwrap_or_default()),
            ));
        }
    }
    for (parameter, whose, end) in &seen.certificates {
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
pub(super) fn crls(seen: &Seen) -> Vec<Finding> {
    let known = match &seen.crls {
        Ok(known) => known,
        Err(error) => return vec![said(error)],
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

/// Room where messages lie.
pub(super) fn disk(seen: &Seen) -> Vec<Finding> {
    let largest = seen.postfix.main("message_size_limit").parse::<u64>().unwrap_or(0);
    let needed = ROOM.max(largest.saturating_mul(20));
    let mut out = Vec::new();
    for (parameter, path, free) in &seen.disks {
        let path = path.display();
        match free {
            Ok(free) if *free >= needed => {}
            Ok(free) => out.push(Finding::wrong(
                *parameter,
                format!("{path}, {free} bytes free"),
                format!("on a disk with {needed} bytes free"),
                "make room",
            )),
            Err(why) => out.push(Finding::not_seen(format!("{parameter} = {path}"), why, "")),
        }
    }
    out
}

/// Times in receipts are law: within a second of UTC.
pub(super) fn clock(seen: &Seen) -> Vec<Finding> {
    const ALLOWED: &str = "synchronised, within a second of UTC: its time stands in every receipt";
    const MEND: &str = "install and start chrony on this host";
    match &seen.clock {
        Ok(clock) if !clock.synchronised => {
            vec![Finding::wrong("the system clock", "not synchronised", ALLOWED, MEND)]
        }
        Ok(clock) if clock.estimated_error > CLOCK_ERROR => {
            vec![Finding::wrong(
                "the system clock",
                format!("off by up to {} microseconds", clock.estimated_error),
                ALLOWED,
                MEND,
            )]
        }
        Ok(_) => Vec::new(),
        Err(why) => vec![Finding::not_seen("the system clock", why, "run this on the host itself")],
    }
}

#[cfg(test)]
mod tests {
    use pec_core::clock::Moment;

    use super::super::postfix::tests::shipped_postfix;
    use super::super::seen::tests::seen;
    use super::*;
    use pec_host::kernel_clock::KernelClock;

    /// What the check finds once `change` has changed what was seen.
    fn found(check: fn(&Seen) -> Vec<Finding>, change: impl FnOnce(&mut Seen)) -> Vec<String> {
        let mut seen = seen(shipped_postfix());
        change(&mut seen);
        check(&seen).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn where_all_is_well_nothing_is_found() {
        for check in [parameters, database, scanner, keys, crls, disk, clock] {
            assert_eq!(found(check, |_| {}), Vec::<String>::new());
        }
    }

    #[test]
    fn errors_of_the_programs_themselves_are_repeated() {
        let error = "pec_infected_store = x: not allowed; it must be an absolute path";
        assert_eq!(found(parameters, |seen| seen.ours = Err(error.into())), [format!("wrong: {error}")]);
        let left = leftovers::parameters().next().unwrap();
        assert!(
            found(parameters, |seen| seen.ours = Err(format!("{left}: unknown parameter; see"))).is_empty()
        );
        assert_eq!(
            found(database, |seen| seen.database = Err("pec_database = x: no".into())),
            ["wrong: pec_database = x: no"]
        );
        assert_eq!(
            found(keys, |seen| seen.world = Err("pec_ca_file = x: no".into())),
            ["wrong: pec_ca_file = x: no"]
        );
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

    #[test]
    fn a_scanner_that_does_not_do_its_work_is_named() {
        assert!(found(scanner, |seen| seen.scanner = None)[0].starts_with("wrong: pec_clamd = none"));
        assert!(
            found(scanner, |seen| seen.scanner = Some(Err("refused".into())))[0]
                .contains("pec_clamd = refused")
        );
        let examined = |seen: &mut Seen, change: fn(&mut pec_program::scanner::Examination)| {
            change(seen.scanner.as_mut().unwrap().as_mut().unwrap())
        };
        assert!(
            found(scanner, |seen| examined(seen, |e| e.blind = Some((5, "finds no virus".into()))))[0]
                .contains("a message of 5 bytes it finds no virus")
        );
        assert!(
            found(scanner, |seen| examined(seen, |e| e.signatures = None))[0]
                .starts_with("not seen: the age of clamd's signatures")
        );
        let old =
            found(scanner, |seen| examined(seen, |e| e.signatures = Some(Moment::from_unix(1_799_900_000))));
        assert!(old[0].contains("at most 360 minutes old (pec_clamd_max_age)"), "{old:?}");
    }

    #[test]
    fn a_key_that_others_read_and_a_certificate_near_its_end_are_named() {
        assert!(
            found(keys, |seen| seen.owned[0].state = Ok((0o100_640, 100)))[0]
                .contains("pec_signing_key = /etc/pec/key.pem, mode 640")
        );
        assert!(
            found(keys, |seen| seen.owned[0].state = Ok((0o100_600, 0)))[0]
                .ends_with("Mend: chown 100 /etc/pec/key.pem")
        );
        let rows = |mode, uid| found(keys, |seen| seen.owned[1].state = Ok((mode, uid)));
        assert!(rows(0o100_640, 100)[0].contains(
            "pec_row_keys_file = /etc/pec/row.keys, mode 640: it must be for the user of the milters alone"
        ));
        assert!(rows(0o100_600, 0)[0].contains(
            "pec_row_keys_file = /etc/pec/row.keys, owner 0: it must be owned by the user of the milters"
        ));
        let in_days = |days: i64| {
            found(keys, |seen| seen.certificates[0].2 = Moment::from_unix(seen.now.unix() + days * 86_400))
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
                seen.certificates[0] = (
                    "smtpd_tls_cert_file".into(),
                    "tls.pem".into(),
                    Moment::from_unix(seen.now.unix() + days * 86_400),
                )
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
        assert_eq!(
            (found(keys, broken), found(database, broken)),
            (vec![format!("wrong: {error}")], Vec::new())
        );
    }

    #[test]
    fn a_disk_that_is_nearly_full_is_named() {
        assert!(
            found(disk, |seen| seen.disks[0].2 = Ok(999_999_999))[0]
                .contains("999999999 bytes free: it must be on a disk with 1000000000")
        );
        assert!(
            found(disk, |seen| seen.disks[0].2 = Err("no such directory".into()))[0]
                .starts_with("not seen: pec_infected_store")
        );
        let larger =
            |seen: &mut Seen| seen.postfix = shipped_postfix().with("message_size_limit", "5000000000");
        assert_eq!(found(disk, larger).len(), 1);
    }

    #[test]
    fn dm_2_11_2005_the_clock_is_within_a_second_of_utc() {
        assert!(
            found(clock, |seen| seen.clock = Ok(KernelClock { synchronised: false, estimated_error: 0 }))[0]
                .contains("not synchronised")
        );
        let off = |error| {
            found(clock, |seen| seen.clock = Ok(KernelClock { synchronised: true, estimated_error: error }))
        };
        assert!(off(1_000_000).is_empty() && off(1_000_001)[0].contains("off by up to 1000001 microseconds"));
        assert!(
            found(clock, |seen| seen.clock = Err("Operation not permitted".into()))[0]
                .starts_with("not seen: the system clock: Operation not permitted")
        );
    }
}
