//! The kernel's clock, as adjtimex(2) tells of it.

/// What it says of itself.
#[derive(Debug, Clone, Copy)]
pub struct KernelClock {
    /// Something keeps it at UTC.
    pub synchronised: bool,
    /// How far it may be from UTC, in microseconds.
    pub estimated_error: i64,
}

/// adjtimex(2) with nothing to adjust: it only tells.
#[allow(unsafe_code)]
pub fn kernel_clock() -> Result<KernelClock, String> {
    // SAFETY: `timex` is a C structure of integers, for which zeroes are a value; with `modes` 0 the call
    // writes into this structure alone and changes nothing.
    let (state, clock) = unsafe {
        let mut clock: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut clock), clock)
    };
    if state == -1 {
        return Err(std::io::Error::last_os_error().to_string());
    }
    let synchronised = state != libc::TIME_ERROR && clock.status & libc::STA_UNSYNC == 0;
    Ok(KernelClock { synchronised, estimated_error: clock.esterror })
}
