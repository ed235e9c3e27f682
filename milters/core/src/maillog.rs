//! Every line that an administrator reads about a message, and how lines are written.
//!
//! Promise: a line starts with the queue id (`NOQUEUE` where there is none), so that `grep QUEUEID` shows Postfix and PEC
//! together; `key=value` after a word that names the event; nothing in it that is not printable. What needs a person says
//! `warning:` or `error:` after the queue id. Errors mean that mail waits.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::NO_QUEUE_ID;
use crate::clock::Moment;
use crate::daticert::Daticert;

/// Writes the log to standard error, one line an event. Under systemd each line carries its priority, which journald takes
/// off again.
pub fn start() {
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let subscriber = tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(Level::INFO).event_format(Lines { journal }).finish();
    // A second call keeps the first.
    let _ = tracing::subscriber::set_global_default(subscriber);
    // A panic ends one session; Postfix answers 451. It is a bug all the same, and must be seen.
    std::panic::set_hook(Box::new(|panic| program_error(&panic.to_string())));
}

struct Lines {
    journal: bool,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = Line::default();
        event.record(&mut line);
        let (priority, word) = match *event.metadata().level() {
            Level::ERROR => (3, "error: "),
            Level::WARN => (4, "warning: "),
            _ => (6, ""),
        };
        if self.journal {
            write!(writer, "<{priority}>")?;
        }
        // Libraries log without a queue id; their lines get one too.
        let (queue_id, text) = match line.queue_id {
            Some(queue_id) => (queue_id, line.message),
            None => (NO_QUEUE_ID.to_owned(), line.message),
        };
        writeln!(writer, "{queue_id}: {word}{}", printable(&text))
    }
}

#[derive(Default)]
struct Line {
    queue_id: Option<String>,
    message: String,
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "queue_id" => self.queue_id = Some(value.to_owned()),
            "message" => value.clone_into(&mut self.message),
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

macro_rules! info_line {
    ($queue_id:expr, $($words:tt)*) => { tracing::info!(queue_id = $queue_id, message = format!($($words)*)) };
}
macro_rules! warning_line {
    ($queue_id:expr, $($words:tt)*) => { tracing::warn!(queue_id = $queue_id, message = format!($($words)*)) };
}
macro_rules! error_line {
    ($queue_id:expr, $($words:tt)*) => { tracing::error!(queue_id = $queue_id, message = format!($($words)*)) };
}

/// A panic: a bug of ours.
pub fn program_error(what: &str) {
    error_line!(NO_QUEUE_ID, "program error, the message in hand waits: {what}");
}

/// A program takes up its work.
pub fn started(program: &str, version: &str, listening: &str) {
    info_line!(NO_QUEUE_ID, "started: program={program} version={version} listening={listening}");
}

/// A program ends.
pub fn stopped(program: &str) {
    info_line!(NO_QUEUE_ID, "stopped: program={program}");
}

/// SIGHUP: the new configuration is in force.
pub fn reloaded(program: &str) {
    info_line!(NO_QUEUE_ID, "reloaded: program={program}");
}

/// SIGHUP: the new configuration is wrong, the old one stays.
pub fn not_reloaded(program: &str, why: &str) {
    error_line!(NO_QUEUE_ID, "not reloaded, the configuration from before stays in force: program={program} reason={why}");
}

/// A parameter was changed that only a restart takes up.
pub fn needs_restart(program: &str, parameter: &str) {
    warning_line!(NO_QUEUE_ID, "a restart is needed for the new {parameter}: program={program}");
}

/// What the directory of providers holds.
pub fn directory(providers: usize, domains: usize) {
    info_line!(NO_QUEUE_ID, "directory: providers={providers} domains={domains}");
}

/// Two records of the directory claim the same thing.
pub fn directory_conflict(conflict: &str) {
    warning_line!(NO_QUEUE_ID, "directory: {conflict}");
}

/// The database does not answer yet.
pub fn waiting_for_database(why: &str) {
    warning_line!(NO_QUEUE_ID, "waiting for the database: {why}");
}

/// The Access Point put a message into an envelope.
pub fn busta(queue_id: &str, busta: &Daticert, local: usize, size: usize) {
    info_line!(
        queue_id,
        "busta: identificativo={} mittente={} destinatari={} local={local} size={size} msgid={}",
        busta.identificativo,
        busta.mittente,
        busta.destinatari.len(),
        busta.msgid.as_deref().unwrap_or("none"),
    );
}

/// A message was refused for good.
pub fn refused(queue_id: &str, sender: &str, reply: &str) {
    info_line!(queue_id, "refused: from={sender} reply={reply}");
}

/// A message has to wait: the client hears 451, or the queue keeps it.
pub fn waits(queue_id: &str, why: &str) {
    error_line!(queue_id, "waits: {why}");
}

/// An envelope passed the checks of the Incoming Point.
pub fn ricezione(queue_id: &str, busta: &Daticert, provider: &str, recipients: usize) {
    info_line!(
        queue_id,
        "ricezione: identificativo={} provider={provider} mittente={} recipients={recipients}",
        busta.identificativo,
        busta.mittente
    );
}

/// An envelope that is in custody already came again and was not taken again.
pub fn duplicate(queue_id: &str, busta: &Daticert, provider: &str) {
    info_line!(queue_id, "duplicate: identificativo={} provider={provider}, taken in charge before", busta.identificativo);
}

/// A receipt or notice of another provider came.
pub fn ricevuta(queue_id: &str, ricevuta: &Daticert, provider: &str) {
    info_line!(
        queue_id,
        "ricevuta: tipo={} identificativo={} provider={provider} recipient={}",
        ricevuta.tipo,
        ricevuta.identificativo,
        ricevuta.consegna.as_deref().unwrap_or("none")
    );
}

/// A receipt that verifies, for a message that nobody here sent.
pub fn ricevuta_of_nothing(queue_id: &str, ricevuta: &Daticert, provider: &str) {
    warning_line!(
        queue_id,
        "ricevuta of a message that was never sent from here: tipo={} identificativo={} provider={provider}; delivered, nothing else changed",
        ricevuta.tipo,
        ricevuta.identificativo
    );
}

/// A notice of ours was made.
pub fn notice(queue_id: &str, tipo: &str, identificativo: &str, recipient: &str, moment: Moment, message_id: &str) {
    info_line!(queue_id, "{tipo}: identificativo={identificativo} recipient={recipient} time={moment} message-id={message_id}");
}

/// The mailbox could not say when it saved the message; the report's time stands in the receipt.
pub fn time_of_report(queue_id: &str, identificativo: &str, recipient: &str) {
    warning_line!(
        queue_id,
        "the mailbox no longer has the message, the report's time is used: identificativo={identificativo} recipient={recipient}"
    );
}

/// A notice came out differently than the first time, for a reason that is known.
pub fn notice_differs(queue_id: &str, message_id: &str, why: &str) {
    warning_line!(queue_id, "notice made again with other bytes: message-id={message_id} reason={why}");
}

/// A delivery report that leads to no notice of ours.
pub fn report_dropped(queue_id: &str, why: &str) {
    info_line!(queue_id, "report dropped: {why}");
}

/// A delivery report that goes on as it is.
pub fn report_passed(queue_id: &str, why: &str) {
    info_line!(queue_id, "report passed: {why}");
}

/// A trigger that could not be delivered is put into the queue again.
pub fn trigger_again(queue_id: &str, trigger: &str) {
    warning_line!(queue_id, "trigger raised again: {trigger}");
}

/// Somebody tried to make a trigger work who is not a milter of ours, or a database was restored from before.
pub fn false_trigger(queue_id: &str, trigger: &str, why: &str) {
    error_line!(queue_id, "no notice, the trigger is not believed: trigger={trigger} reason={why}");
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(journal: bool, log: impl FnOnce()) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).event_format(Lines { journal }).finish();
        tracing::subscriber::with_default(subscriber, log);
        String::from_utf8(sink.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn lines_start_with_the_queue_id() {
        assert_eq!(logged(false, || refused("4abc", "a@b", "550 no")), "4abc: refused: from=a@b reply=550 no\n");
        assert_eq!(logged(false, || waits("4abc", "no database")), "4abc: error: waits: no database\n");
        assert_eq!(logged(false, || tracing::warn!("of a library")), "NOQUEUE: warning: of a library\n");
    }

    #[test]
    fn nothing_unprintable_gets_through() {
        assert_eq!(
            logged(false, || refused("4abc", "a\r\n4def: accettazione", "\u{1b}[31m")),
            "4abc: refused: from=a??4def: accettazione reply=?[31m\n"
        );
    }

    #[test]
    fn journald_gets_the_priority() {
        assert_eq!(logged(true, || stopped("pec-access")), "<6>NOQUEUE: stopped: program=pec-access\n");
        assert_eq!(logged(true, || waits("4abc", "x")), "<3>4abc: error: waits: x\n");
    }
}
