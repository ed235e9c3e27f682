//! pec-notices: the milter of the internal smtpd for triggers and of Postfix's own delivery reports.

use std::process::ExitCode;

use pec_notices::{Door, NoticesPoint};

fn main() -> ExitCode {
    let doors = |settings: &pec_core::parameters::Settings| {
        vec![
            (Door::Triggers, "pec_triggers_milter", settings.triggers_milter.clone()),
            (Door::Reports, "pec_reports_milter", settings.reports_milter.clone()),
        ]
    };
    pec_milter::program::run("pec-notices", doors, NoticesPoint::new)
}
