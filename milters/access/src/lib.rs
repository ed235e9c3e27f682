//! Access Point (RFC 6109 s. 3.1): turns a submitted message into the signed busta di trasporto.
//!
//! Promise: only the account's own address sends; what fails a check of RFC 6109 s. 3.1.1 or carries a virus
//! goes nowhere; the envelope carries the submitted bytes. The ricevuta di accettazione is not made here: the
//! envelope gets a recipient that makes pec-delivery write it, if and only if Postfix has the envelope in its
//! queue. On any doubt: 451, nothing is accepted, the client tries again.

pub mod checks;
mod contents;
mod session;

pub use session::AccessPoint;
