//! A milter that is told everything of a message and does nothing: what any content milter on libmilter costs at least.
//!
//!     noop SOCKET      SOCKET as libmilter writes it, such as unix:/var/spool/postfix/pec/noop

use milter::{on_body, on_eoh, on_eom, on_header, Context, Milter, Status};

fn main() {
    let socket = std::env::args().nth(1).expect("where to listen");
    Milter::new(&socket)
        .name("noop")
        .remove_socket(true)
        .on_header(header_callback)
        .on_eoh(eoh_callback)
        .on_body(body_callback)
        .on_eom(eom_callback)
        .run()
        .expect("libmilter ended with an error");
}

#[on_header(header_callback)]
fn header(_: Context<()>, _: &str, _: &str) -> Status {
    Status::Continue
}

#[on_eoh(eoh_callback)]
fn eoh(_: Context<()>) -> Status {
    Status::Continue
}

#[on_body(body_callback)]
fn body(_: Context<()>, _: &[u8]) -> Status {
    Status::Continue
}

#[on_eom(eom_callback)]
fn eom(_: Context<()>) -> Status {
    Status::Continue
}
