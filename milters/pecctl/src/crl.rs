//! `pecctl crl`: the CAs' revocation lists that are in force; `pecctl crl refresh` fetches them now.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use pec_core::clock::{Clock as _, Moment, SystemClock};
use pec_core::smime::common_name;
use pec_core::smime::crl::Known;
use pec_host::crl_directory::{CrlDirectory, ListTaken};
use pec_host::parameters::Settings;
use pec_program::crls::Crls;
use pec_program::program_rows::ProgramRows;
use serde_json::{Value, json};

use crate::status::Status;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Option<Verb>,

    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Fetch all that are known, and say of each what came. Exit status 1 if one did not come.
    Refresh {
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(config_directory: &Path, arguments: &Arguments) -> anyhow::Result<Status> {
    let settings = Settings::read(config_directory)?;
    let directory = Arc::new(CrlDirectory::new(&settings.crl_directory));
    let known = directory.lists()?.all();
    let now = SystemClock.now();
    if let Some(Verb::Refresh { json }) = arguments.verb {
        return refresh(directory, &known, now, json || arguments.json);
    }
    for known in &known {
        println!("{}", if arguments.json { json_of(known, now).to_string() } else { line(known, now) });
    }
    Ok(Status::Good)
}

fn refresh(directory: Arc<CrlDirectory>, known: &[Known], now: Moment, json: bool) -> anyhow::Result<Status> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting")?;
    let crls = Crls::new(directory, ProgramRows::default());
    let mut status = Status::Good;
    for Known { place, .. } in known {
        let taken = runtime.block_on(crls.refresh(place, now));
        if taken.is_err() {
            status = Status::Bad;
        }
        let came = Came::of(&place.url, taken);
        println!("{}", if json { came.json().to_string() } else { came.line() });
    }
    Ok(status)
}

/// What came of a list that was fetched.
#[derive(Debug)]
struct Came<'a> {
    url: &'a str,
    result: &'static str,
    /// Until when the list is good, or why it is not taken.
    until: Result<Moment, String>,
}

impl<'a> Came<'a> {
    fn of(url: &'a str, taken: Result<ListTaken, String>) -> Self {
        let (result, until) = match taken {
            Ok(ListTaken::New(crl)) => ("new", Ok(crl.next_update)),
            Ok(ListTaken::Same(crl)) => ("unchanged", Ok(crl.next_update)),
            Err(why) => ("not taken", Err(why)),
        };
        Self { url, result, until }
    }

    fn line(&self) -> String {
        match &self.until {
            Ok(until) => format!("{:<11}{}, until {until}", self.result, self.url),
            Err(why) => format!("{:<11}{}: {why}", self.result, self.url),
        }
    }

    fn json(&self) -> Value {
        json!({
            "result": self.result,
            "url": self.url,
            "next_update": self.until.as_ref().ok().map(ToString::to_string),
            "why": self.until.as_ref().err(),
        })
    }
}

fn state(known: &Known, now: Moment) -> &'static str {
    match &known.crl {
        None => "missing",
        Some(crl) if crl.next_update < now => "too old",
        Some(_) => "good",
    }
}

fn line(known: &Known, now: Moment) -> String {
    let Known { place, crl } = known;
    let what = crl.as_ref().map_or("nothing has come yet".to_owned(), |crl| {
        format!(
            "of {}, {} h old, until {}, revoked: {}",
            crl.this_update,
            (now.unix() - crl.this_update.unix()) / 3600,
            crl.next_update,
            crl.len()
        )
    });
    format!("{:<8} {} ({}): {what}", state(known, now), place.url, common_name(&place.issuer))
}

fn json_of(known: &Known, now: Moment) -> Value {
    let crl = known.crl.as_ref();
    json!({
        "state": state(known, now),
        "url": known.place.url,
        "ca": common_name(&known.place.issuer),
        "this_update": crl.map(|crl| crl.this_update.to_string()),
        "next_update": crl.map(|crl| crl.next_update.to_string()),
        "revoked": crl.map(|crl| crl.len()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use pec_core::smime::crl::Place;
    use pec_test_support::pki::{Ca, NOW, Revoked};

    #[test]
    fn a_line_says_where_a_list_is_from_how_old_it_is_and_whether_mail_waits_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let ca = Ca::root("Prova CA 1");
        let place =
            Place { url: "http://ca.test/crl".into(), also: Vec::new(), issuer: ca.certificate.clone() };
        let crls = CrlDirectory::new(directory.path());
        let shown = |now| {
            crls.lists()
                .unwrap()
                .all()
                .iter()
                .map(|known| line(known, Moment::from_unix(now)))
                .collect::<Vec<_>>()
        };
        assert!(shown(NOW).is_empty());
        crls.note(&place).unwrap();
        assert_eq!(shown(NOW), ["missing  http://ca.test/crl (Prova CA 1): nothing has come yet"]);
        crls.take(&place, &ca.crl(&Revoked::NOBODY), Moment::from_unix(NOW)).unwrap();
        let said = "http://ca.test/crl (Prova CA 1): of 2026-11-18T13:06:40Z, 2 h old, until \
            2026-11-19T13:06:40Z, revoked: 0";
        let said = said.replace("13:06:40", &Moment::from_unix(NOW).to_string()[11..19]);
        assert_eq!(shown(NOW + 7200), [format!("good     {said}")]);
        assert_eq!(shown(NOW + 90_000), [format!("too old  {}", said.replace("2 h", "25 h"))]);
        let json = json_of(&crls.lists().unwrap().all()[0], Moment::from_unix(NOW));
        assert_eq!((json["state"].as_str(), json["revoked"].as_u64()), (Some("good"), Some(0)));
    }

    #[test]
    fn what_came_of_each_list_is_a_line_or_an_object() {
        let came = |until| Came { url: "http://ca.test/crl", result: "not taken", until };
        let not_taken = came(Err("no answer".to_owned()));
        assert_eq!(not_taken.line(), "not taken  http://ca.test/crl: no answer");
        assert_eq!(
            (not_taken.json()["why"].as_str(), not_taken.json()["next_update"].is_null()),
            (Some("no answer"), true)
        );
        let new = Came { result: "new", ..came(Ok(Moment::from_unix(NOW))) };
        assert_eq!(new.line(), format!("new        http://ca.test/crl, until {}", Moment::from_unix(NOW)));
        assert_eq!(new.json()["next_update"].as_str(), Some(Moment::from_unix(NOW).to_string().as_str()));
    }
}
