//! pec-clock: looks every minute, and at SIGHUP, for what no message starts.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pec_clock::Clockwork;
use pec_core::NO_QUEUE_ID;
use pec_core::maillog;
use pec_milter::life::{self, Life, Sign};
use pec_milter::world::VERSION;

/// From the end of one round to the next.
const EVERY: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    life::run("pec-clock", Clockwork::new, async |life, _, clockwork| live(life, clockwork).await)
}

/// Round after round.
async fn live(mut life: Life<Clockwork>, mut clockwork: Clockwork) -> anyhow::Result<()> {
    maillog::started(life.program, VERSION, "none");
    loop {
        let mut heard = round(&mut life, &mut clockwork).await;
        if heard.is_none() {
            heard = tokio::select! {
                () = tokio::time::sleep(EVERY) => None,
                sign = life.sign() => Some(sign),
            };
        }
        match heard {
            None => {}
            Some(Sign::End) => break,
            Some(Sign::Reload) => {
                if let Some((_, new)) = life.reload().await {
                    clockwork = new.in_place_of(clockwork);
                    maillog::reloaded(life.program);
                }
            }
        }
    }
    maillog::stopped(life.program);
    Ok(())
}

/// One round, or what of it is in hand when a signal comes; the last one that came.
async fn round(life: &mut Life<Clockwork>, clockwork: &mut Clockwork) -> Option<Sign> {
    let stopped = AtomicBool::new(false);
    let mut heard = None;
    let mut round = std::pin::pin!(clockwork.round(&stopped));
    let done = loop {
        tokio::select! {
            done = &mut round => break done,
            sign = life.sign() => {
                heard = if heard == Some(Sign::End) { heard } else { Some(sign) };
                stopped.store(true, Ordering::Relaxed);
            }
        }
    };
    if let Err(e) = done {
        maillog::waits(NO_QUEUE_ID, &format!("{e:#}"));
    }
    heard
}
