//! Seals the register, every second, beside the rounds: whatever they wait for, no row waits longer for its
//! seal.
//!
//! Promise: what keeps rows from being sealed is said once, as an error, and tried again every second; mail
//! goes on meanwhile. Of several pec-clocks one seals.

use std::sync::Arc;
use std::time::Duration;

use pec_core::clock::Clock;
use pec_host::maillog;
use pec_host::parameters::Settings;
use pec_register::error::RegisterError;
use pec_register::sealer::Sealer;

/// From one look for new rows to the next. Two seconds are promised.
const EVERY: Duration = Duration::from_secs(1);

/// Seals for ever; dropped at any point, nothing is lost.
pub async fn keep_sealing(settings: Settings, clock: Arc<dyn Clock>) {
    let (mut sealer, mut trouble) = (None, None);
    loop {
        let more = match step(&mut sealer, &settings, &*clock).await {
            Ok(more) => {
                if trouble.take().is_some() {
                    maillog::sealing_again();
                }
                more
            }
            Err(e) => {
                // It reads anew where it stands, whatever became of what it was doing.
                sealer = None;
                let why = e.to_string();
                if trouble.as_ref() != Some(&why) {
                    maillog::not_sealed(&why);
                    trouble = Some(why);
                }
                false
            }
        };
        if !more {
            tokio::time::sleep(EVERY).await;
        }
    }
}

/// One batch. Whether there may be more.
async fn step(
    sealer: &mut Option<Sealer>,
    settings: &Settings,
    clock: &dyn Clock,
) -> Result<bool, RegisterError> {
    if sealer.is_none() {
        let Some(opened) = Sealer::open(settings, "pec-clock").await? else { return Ok(false) };
        maillog::sealing(opened.last().map_or(0, |seal| seal.size));
        *sealer = Some(opened);
    }
    let Some(sealer) = sealer else { return Ok(false) };
    sealer.make_months(clock.now()).await?;
    Ok(sealer.seal(clock.now()).await?.is_some())
}
