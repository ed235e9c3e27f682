//! pec-delivery: Postfix's LMTP server for mailboxes and triggers, and the milter of its own delivery
//! reports.

use std::process::ExitCode;

use pec_delivery::DeliveryPoint;
use pec_delivery::doors::{Door, serve};
use pec_host::parameters::Settings;

fn main() -> ExitCode {
    let milters = |settings: &Settings| vec![((), "pec_reports_milter", settings.reports_milter.clone())];
    let lmtp = |settings: &Settings| {
        vec![
            (Door::Mailboxes, "pec_delivery_lmtp", settings.delivery_lmtp.clone()),
            (Door::Triggers, "pec_triggers_lmtp", settings.triggers_lmtp.clone()),
        ]
    };
    pec_milter::serving::run_with("pec-delivery", milters, |world| Ok(DeliveryPoint::new(world)), lmtp, serve)
}
