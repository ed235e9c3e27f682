//! pec-clock: looks every minute, and at SIGHUP, for what no message starts.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pec_clock::Clockwork;
use pec_clock::auditing::keep_auditing;
use pec_clock::proving::keep_proving;
use pec_clock::sealing::keep_sealing;
use pec_host::NO_QUEUE_ID;
use pec_host::maillog;
use pec_program::life::{self, Life, Sign};
use pec_program::world::VERSION;
use tokio::task::JoinSet;

/// From the end of one round to the next.
const EVERY: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    life::run("pec-clock", Clockwork::new, async |life, _, clockwork| live(life, clockwork).await)
}

/// Round after round.
async fn live(mut life: Life<Clockwork>, mut clockwork: Clockwork) -> anyhow::Result<()> {
    maillog::started(life.program, VERSION, "none");
    let mut beside = beside(&clockwork);
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
                    beside.shutdown().await;
                    beside = self::beside(&clockwork);
                    maillog::reloaded(life.program);
                }
            }
        }
    }
    beside.shutdown().await;
    maillog::stopped(life.program);
    Ok(())
}

/// What goes on beside the rounds.
fn beside(clockwork: &Clockwork) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let (settings, process) = (clockwork.settings(), clockwork.process());
    tasks.spawn(keep_sealing(settings.clone(), Arc::clone(&process.clock)));
    tasks.spawn(keep_proving(settings.clone(), process.clone()));
    tasks.spawn(keep_auditing(settings.clone(), Arc::clone(&process.clock), clockwork.database().clone()));
    tasks
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
