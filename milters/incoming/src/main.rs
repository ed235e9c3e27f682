//! pec-incoming: the milter of port 25 and of programs of this host.

use std::process::ExitCode;

use pec_incoming::{Door, IncomingPoint};

fn main() -> ExitCode {
    let doors = |settings: &pec_host::parameters::Settings| {
        vec![
            (Door::Port25, "pec_incoming_milter", settings.incoming_milter.clone()),
            (Door::Local, "pec_local_milter", settings.local_milter.clone()),
        ]
    };
    pec_milter::serving::run("pec-incoming", doors, |world| Ok(IncomingPoint::new(world)))
}
