//! The one source of time, and how a moment is written in PEC messages.
//!
//! Promise: a transaction asks the clock once and uses that one [`Moment`] everywhere (RFC 6109 s. 4.1, "sole
//! temporal value"), in whole seconds, written in Italian legal time with its offset (RFC 6109 s. 4.2).

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, Zoned};

/// Where the programs take the time from; tests put their own in its place.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The present second.
    fn now(&self) -> Moment;
}

/// The machine's clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Moment {
        Moment(Timestamp::now().as_second())
    }
}

/// A clock that stands still until it is set.
#[derive(Debug)]
pub struct SettableClock(AtomicI64);

impl SettableClock {
    /// A clock that shows `start`.
    pub fn new(start: Moment) -> Self {
        Self(AtomicI64::new(start.0))
    }

    /// Moves the clock to `moment`.
    pub fn set(&self, moment: Moment) {
        self.0.store(moment.0, Ordering::SeqCst);
    }
}

impl Clock for SettableClock {
    fn now(&self) -> Moment {
        Moment(self.0.load(Ordering::SeqCst))
    }
}

/// A second in time: seconds since 1970-01-01 00:00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(i64);

impl Moment {
    /// The moment that is `seconds` after the start of 1970 (UTC).
    pub fn from_unix(seconds: i64) -> Self {
        Self(seconds)
    }

    /// Seconds since the start of 1970 (UTC).
    pub fn unix(self) -> i64 {
        self.0
    }

    /// Reads the `data` of a daticert.xml: `dd/mm/yyyy`, `hh:mm:ss`, `+hhmm`. `None` if one of them is not of
    /// that form.
    pub fn from_daticert(giorno: &str, ora: &str, zona: &str) -> Option<Self> {
        let is_of_form = |text: &str, form: &str| {
            text.len() == form.len()
                && text
                    .bytes()
                    .zip(form.bytes())
                    .all(|(b, f)| if f == b'0' { b.is_ascii_digit() } else { b == f })
        };
        if !is_of_form(giorno, "00/00/0000") || !is_of_form(ora, "00:00:00") {
            return None;
        }
        let civil = DateTime::strptime("%d/%m/%Y %H:%M:%S", format!("{giorno} {ora}")).ok()?;
        let digits = zona.get(1..).filter(|d| d.len() == 4 && d.bytes().all(|b| b.is_ascii_digit()))?;
        let minutes = digits[..2].parse::<i32>().ok()? * 60 + digits[2..].parse::<i32>().ok()?;
        let sign = match zona.as_bytes()[0] {
            b'+' => 1,
            b'-' => -1,
            _ => return None,
        };
        let offset = Offset::from_seconds(sign * minutes * 60).ok()?;
        Some(Self(offset.to_timestamp(civil).ok()?.as_second()))
    }

    /// Reads an RFC 5322 date, as in a `Date:` header.
    pub fn from_rfc5322(text: &str) -> Option<Self> {
        let zoned =
            jiff::fmt::rfc2822::DateTimeParser::new().relaxed_weekday(true).parse_zoned(text.trim()).ok()?;
        Some(Self(zoned.timestamp().as_second()))
    }

    /// Reads ISO 8601 with its offset, as the retained log writes times; parts of seconds are left out.
    pub fn from_iso8601(text: &str) -> Option<Self> {
        Some(Self(text.parse::<Timestamp>().ok()?.as_second()))
    }

    /// Reads `Sat Nov 21 10:31:05 2026`, as C's `ctime` writes the local time of this machine.
    pub fn from_ctime(text: &str) -> Option<Self> {
        let civil = DateTime::strptime("%a %b %e %H:%M:%S %Y", text.trim()).ok()?;
        Some(Self(civil.to_zoned(TimeZone::system()).ok()?.timestamp().as_second()))
    }

    /// `dd/mm/yyyy`, Italian legal time.
    pub fn giorno(self) -> String {
        self.in_italy().strftime("%d/%m/%Y").to_string()
    }

    /// `hh:mm:ss`, Italian legal time.
    pub fn ora(self) -> String {
        self.in_italy().strftime("%H:%M:%S").to_string()
    }

    /// `+hhmm`: by how much Italian legal time is ahead of UTC at that moment.
    pub fn zona(self) -> String {
        self.in_italy().strftime("%z").to_string()
    }

    /// As a `Date:` header shows it, with the Italian offset.
    pub fn rfc5322(self) -> String {
        self.in_italy().strftime("%a, %d %b %Y %H:%M:%S %z").to_string()
    }

    /// `yyyymmddhhmmss`, Italian legal time: the part of a PEC identifier that people can read.
    pub fn compact(self) -> String {
        self.in_italy().strftime("%Y%m%d%H%M%S").to_string()
    }

    /// The signing time of a CMS signature, `yymmddhhmmssZ` (UTC) as a `UTCTime`.
    pub fn utc(self) -> std::time::SystemTime {
        std::time::UNIX_EPOCH + std::time::Duration::from_secs(self.0.max(0).unsigned_abs())
    }

    fn in_italy(self) -> Zoned {
        // Both fall back rather than fail: a wrong zone is visible in every message, a missing receipt is
        // not.
        let zone = TimeZone::get("Europe/Rome").unwrap_or(TimeZone::UTC);
        Timestamp::from_second(self.0).unwrap_or(Timestamp::UNIX_EPOCH).to_zoned(zone)
    }
}

/// ISO 8601 in UTC, as logs show it.
impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Timestamp::from_second(self.0).unwrap_or(Timestamp::UNIX_EPOCH))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc6109_4_2_legal_time_follows_summer_time() {
        let winter = Moment::from_unix(1_542_123_566);
        assert_eq!(
            (winter.giorno().as_str(), winter.ora().as_str(), winter.zona().as_str()),
            ("13/11/2018", "16:39:26", "+0100")
        );
        assert_eq!(winter.rfc5322(), "Tue, 13 Nov 2018 16:39:26 +0100");
        let summer = Moment::from_unix(1_789_825_279);
        assert_eq!((summer.ora().as_str(), summer.zona().as_str()), ("15:41:19", "+0200"));
        assert_eq!(summer.compact(), "20260919154119");
    }

    #[test]
    fn daticert_times_are_read_back() {
        for seconds in [1_542_123_566, 1_789_825_279, 1_711_846_799, 1_711_846_800] {
            let moment = Moment::from_unix(seconds);
            assert_eq!(Moment::from_daticert(&moment.giorno(), &moment.ora(), &moment.zona()), Some(moment));
            assert_eq!(Moment::from_rfc5322(&moment.rfc5322()), Some(moment));
            assert_eq!(Moment::from_iso8601(&moment.to_string().replace('Z', ".987654Z")), Some(moment));
        }
        assert_eq!(Moment::from_daticert("31/02/2026", "10:00:00", "+0100"), None);
        assert_eq!(Moment::from_daticert("01/02/2026", "10:00:00", "0100"), None);
        assert_eq!(Moment::from_daticert("01/02/2026", "10:00:00", "+01é"), None);
    }
}
