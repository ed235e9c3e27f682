//! A milter that is told everything of a message and does nothing: what any content milter on libmilter costs
//! at least. Or that gives the body back as it came: what any costs at least that wraps a message.
//!
//!     noop SOCKET [giveback]      SOCKET as libmilter writes it, such as unix:/var/spool/postfix/pec/noop

use std::sync::atomic::{AtomicBool, Ordering};

use milter::{on_body, on_eoh, on_eom, on_header, Actions, Context, Milter, Status};

static GIVES_BACK: AtomicBool = AtomicBool::new(false);

fn main() {
    let socket = std::env::args().nth(1).expect("where to listen");
    let gives_back = std::env::args().nth(2).is_some();
    GIVES_BACK.store(gives_back, Ordering::Relaxed);
    Milter::new(&socket)
        .actions(if gives_back { Actions::REPLACE_BODY } else { Actions::empty() })
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
fn header(_: Context<Vec<u8>>, _: &str, _: &str) -> Status {
    Status::Continue
}

#[on_eoh(eoh_callback)]
fn eoh(_: Context<Vec<u8>>) -> Status {
    Status::Continue
}

#[on_body(body_callback)]
fn body(mut context: Context<Vec<u8>>, piece: &[u8]) -> milter::Result<Status> {
    if GIVES_BACK.load(Ordering::Relaxed) {
        match context.data.borrow_mut() {
            Some(body) => body.extend_from_slice(piece),
            None => drop(context.data.replace(piece.to_vec())?),
        }
    }
    Ok(Status::Continue)
}

#[on_eom(eom_callback)]
fn eom(mut context: Context<Vec<u8>>) -> milter::Result<Status> {
    if let Some(body) = context.data.take()? {
        context.api.append_body_chunk(&body)?;
    }
    Ok(Status::Continue)
}
