//! What the host gives: the database, room, the time.

use crate::check::finding::Finding;
use crate::check::look::Seen;
use crate::check::look::files::Disk;

/// Bytes that must be free where messages lie, at least.
const ROOM: u64 = 1_000_000_000;

/// How far the clock may be from UTC, in microseconds.
const CLOCK_ERROR: i64 = 1_000_000;

/// PostgreSQL and its schema.
pub(crate) fn database(seen: &Seen) -> Vec<Finding> {
    if seen.ours.is_err() {
        return Vec::new();
    }
    // That the rows' keys cannot be read is said by the check of keys.
    let error = seen.database.as_ref().err().filter(|error| seen.row_keys.as_ref().err() != Some(*error));
    error.map(|error| Finding::of_error(error)).into_iter().collect()
}

/// Room where messages lie.
pub(crate) fn disk(seen: &Seen) -> Vec<Finding> {
    let largest = seen.postfix.main("message_size_limit").parse::<u64>().unwrap_or(0);
    let needed = ROOM.max(largest.saturating_mul(20));
    let mut out = Vec::new();
    for Disk { parameter, path, free } in &seen.disks {
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
pub(crate) fn clock(seen: &Seen) -> Vec<Finding> {
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
    use pec_host::kernel_clock::KernelClock;

    use super::*;
    use crate::check::sample::{found, shipped_postfix};

    #[test]
    fn where_all_is_well_nothing_is_found() {
        assert_eq!(found(database, |_| {}), Vec::<String>::new());
        assert_eq!(found(disk, |_| {}), Vec::<String>::new());
        assert_eq!(found(clock, |_| {}), Vec::<String>::new());
    }

    #[test]
    fn an_error_of_the_database_is_repeated_once() {
        let error = "pec_database = x: no";
        assert_eq!(found(database, |seen| seen.database = Err(error.into())), [format!("wrong: {error}")]);
        let broken = |seen: &mut Seen| {
            seen.row_keys = Err(error.into());
            seen.database = Err(error.into());
        };
        assert!(found(database, broken).is_empty(), "the check of keys says it");
    }

    #[test]
    fn a_disk_that_is_nearly_full_is_named() {
        assert!(
            found(disk, |seen| seen.disks[0].free = Ok(999_999_999))[0]
                .contains("999999999 bytes free: it must be on a disk with 1000000000")
        );
        assert!(
            found(disk, |seen| seen.disks[0].free = Err("no such directory".into()))[0]
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
