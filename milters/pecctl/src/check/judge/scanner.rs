//! The virus scanner: clamd, its limits, its signatures.

use pec_host::parameters::Socket;

use crate::check::finding::Finding;
use crate::check::look::Seen;
use crate::check::look::ours::Ours;
use crate::check::look::sockets::Permissions;

/// clamd, its limits, its signatures.
pub(crate) fn scanner(seen: &Seen) -> Vec<Finding> {
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
    let mut out = Vec::from_iter(open_to_others(ours, seen.scanner_socket));
    if let Some((size, what)) = &examination.blind {
        let allowed =
            "such that a virus in it is found: StreamMaxLength, MaxFileSize, MaxScanSize, AlertExceedsMax";
        out.push(Finding::wrong(
            "clamd's limits",
            format!("in a message of {size} bytes it {what}"),
            allowed,
            limits_for(*size),
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

/// Whoever connects to clamd may end it (`SHUTDOWN`), and then all mail waits.
fn open_to_others(ours: &Ours, permissions: Option<(Permissions, Permissions)>) -> Option<Finding> {
    let allowed = "a unix socket for our programs alone: whoever connects to clamd may end it (SHUTDOWN)";
    match (ours.clamd.as_ref()?, permissions) {
        (socket @ Socket::Inet(_), _) => Some(Finding::wrong(
            "pec_clamd",
            format!("{socket}, which any user here reaches, or any host"),
            allowed,
            "in clamd.conf LocalSocket in place of TCPSocket, LocalSocketMode 660; postconf -e 'pec_clamd = \
             unix:/run/clamav/clamd.ctl'",
        )),
        (socket, Some((directory, file))) if directory.mode & 0o001 != 0 && file.mode & 0o002 != 0 => {
            Some(Finding::wrong(
                "pec_clamd",
                format!("{socket}, mode {:o}", file.mode & 0o777),
                allowed,
                "SocketMode=0660 and SocketGroup=pec by systemctl edit clamav-daemon.socket; without systemd \
                 LocalSocketMode 660 and LocalSocketGroup pec in clamd.conf",
            ))
        }
        _ => None,
    }
}

/// What to set in clamd.conf, so that it scans messages of `size` bytes and what is unpacked from them.
fn limits_for(size: usize) -> String {
    let most = size.div_ceil(1024 * 1024) + 8;
    format!(
        "in clamd.conf StreamMaxLength {most}M, MaxFileSize {most}M, MaxScanSize {}M, AlertExceedsMax yes, then \
        restart clamd; see the virus scanner in docs/configuration.md",
        10 * most
    )
}

#[cfg(test)]
mod tests {
    use pec_core::clock::Moment;
    use pec_program::scanner::Examination;

    use super::*;
    use crate::check::sample::found;

    #[test]
    fn where_all_is_well_nothing_is_found() {
        assert_eq!(found(scanner, |_| {}), Vec::<String>::new());
    }

    #[test]
    fn a_scanner_that_anybody_may_end_is_named() {
        for address in ["127.0.0.1:3310", "192.0.2.7:3310"] {
            let port = found(scanner, |seen| {
                seen.ours.as_mut().unwrap().clamd = Some(Socket::Inet(address.into()));
            });
            assert!(
                port[0].starts_with(&format!("wrong: pec_clamd = inet:{address}, which any")),
                "{port:?}"
            );
        }
        let open = found(scanner, |seen| {
            let (directory, file) = seen.scanner_socket.as_mut().unwrap();
            (directory.mode, file.mode) = (0o40_755, 0o140_666);
        });
        assert!(
            open[0].contains("clamd.ctl, mode 666: it must be a unix socket for our programs alone"),
            "{open:?}"
        );
    }

    #[test]
    fn a_scanner_that_does_not_do_its_work_is_named() {
        assert!(found(scanner, |seen| seen.scanner = None)[0].starts_with("wrong: pec_clamd = none"));
        assert!(
            found(scanner, |seen| seen.scanner = Some(Err("refused".into())))[0]
                .contains("pec_clamd = refused")
        );
        let examined = |seen: &mut Seen, change: fn(&mut Examination)| {
            change(seen.scanner.as_mut().unwrap().as_mut().unwrap())
        };
        let blind = found(scanner, |seen| {
            examined(seen, |e| e.blind = Some((33_600_000, "does not scan: larger than ...".into())));
        });
        assert!(blind[0].contains("in a message of 33600000 bytes it does not scan"), "{blind:?}");
        assert!(blind[0].contains("StreamMaxLength 41M, MaxFileSize 41M, MaxScanSize 410M"), "{blind:?}");
        assert!(
            found(scanner, |seen| examined(seen, |e| e.signatures = None))[0]
                .starts_with("not seen: the age of clamd's signatures")
        );
        let old =
            found(scanner, |seen| examined(seen, |e| e.signatures = Some(Moment::from_unix(1_799_900_000))));
        assert!(old[0].contains("at most 360 minutes old (pec_clamd_max_age)"), "{old:?}");
    }
}
