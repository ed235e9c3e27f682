//! Times as people write them on the command line: a day is a day of Italian law.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _, Zoned};

/// From when, and until when.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Period {
    /// From this day or time on: 2026-11-26, 2026-11-26T14:00 (both Italian legal time) or
    /// 2026-11-26T14:00:00+01:00.
    #[arg(long, value_name = "TIME", value_parser = from)]
    pub(crate) from: Option<Timestamp>,

    /// Up to the end of this day, or before this time.
    #[arg(long, value_name = "TIME", value_parser = to)]
    pub(crate) to: Option<Timestamp>,
}

fn from(text: &str) -> Result<Timestamp, String> {
    time(text, 0)
}

fn to(text: &str) -> Result<Timestamp, String> {
    time(text, 1)
}

/// A time; of a day its beginning, or that of the `days`th after it.
fn time(text: &str, days: i32) -> Result<Timestamp, String> {
    let allowed =
        "a day such as 2026-11-26 or a time such as 2026-11-26T14:00 or 2026-11-26T14:00:00+01:00 is allowed";
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Ok(timestamp);
    }
    let civil = match text.parse::<Date>() {
        // A date parses from a time too, and forgets it.
        Ok(date) if text.len() == "2026-11-26".len() => date.checked_add(days.days()).map(DateTime::from),
        _ => text.parse::<DateTime>(),
    };
    let italian = civil.and_then(|civil| civil.to_zoned(TimeZone::get("Europe/Rome")?));
    italian.as_ref().map(Zoned::timestamp).map_err(|_| allowed.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_one_of_italian_law() {
        for (text, first, after) in [
            ("2026-11-26", "2026-11-25T23:00:00Z", "2026-11-26T23:00:00Z"),
            ("2026-10-25", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"), // of 25 hours
            ("2026-11-26T14:00", "2026-11-26T13:00:00Z", "2026-11-26T13:00:00Z"),
            ("2026-07-01 14:00:05", "2026-07-01T12:00:05Z", "2026-07-01T12:00:05Z"),
            ("2026-11-26T14:00:00Z", "2026-11-26T14:00:00Z", "2026-11-26T14:00:00Z"),
        ] {
            assert_eq!(
                (from(text).unwrap().to_string().as_str(), to(text).unwrap().to_string().as_str()),
                (first, after),
                "{text}"
            );
        }
        for text in ["26/11/2026", "yesterday", "2026-13-01", ""] {
            assert!(from(text).unwrap_err().contains("is allowed"), "{text}");
        }
    }
}
