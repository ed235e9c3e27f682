//! `pecctl log recover`: after an older backup of the database was restored, goes on from the checkpoint on
//! disk.

use pec_core::clock::{Clock as _, SystemClock};
use pec_host::parameters::Settings;
use pec_register::sealer::recover;
use pec_state::database::Database;
use pec_state::event::Event;
use pec_state::log::Entry;

use crate::status::Status;

pub(crate) async fn run(settings: &Settings) -> anyhow::Result<Status> {
    let now = SystemClock.now();
    match recover(settings, "pecctl", now).await? {
        None => println!(
            "nothing is lost: the database has every row that the checkpoint in {} has",
            settings.register.display()
        ),
        Some(lost) => {
            let what = format!(
                "the rows of leaves {} to {} are lost: an older backup of the database was restored",
                lost.first, lost.end
            );
            println!("{what}. New rows follow them, and pec-clock seals again.");
            let identificativo = format!("registro {}-{}", lost.first, lost.end);
            let entry = Entry::about_no_message(
                Event::RegistroRipristinato,
                identificativo,
                what,
                &settings.provider_name,
                now,
            );
            Database::connect(settings, "pecctl").await?.insert_log(&entry).await?;
        }
    }
    Ok(Status::Good)
}
