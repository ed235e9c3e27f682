//! pec-access: the milter of the submission services (587, 465).

use std::process::ExitCode;

use pec_access::AccessPoint;

fn main() -> ExitCode {
    pec_milter::serving::run(
        "pec-access",
        |settings| vec![((), "pec_access_milter", settings.access_milter.clone())],
        |world| Ok(AccessPoint::new(world)),
    )
}
