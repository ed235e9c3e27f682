//! Every line that an administrator reads about a message, and how lines are written.
//!
//! Promise: a line starts with the queue id (`NOQUEUE` where there is none), so that `grep QUEUEID` shows Postfix and PEC
//! together; `key=value` after a word that names the event; nothing in it that is not printable. What needs a person says
//! `warning:` or `error:` after the queue id. Errors mean that mail waits, or that a rule of PEC could not be kept.

use std::fmt;
use std::path::Path;
use std::time::Duration;

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

/// The virus scanner answers.
pub fn scanner(version: &str) {
    info_line!(NO_QUEUE_ID, "virus scanner: {version}");
}

/// The virus scanner does not answer.
pub fn scanner_down(why: &str) {
    error_line!(NO_QUEUE_ID, "messages wait until the virus scanner answers: {why}");
}

/// The administrator wants no virus scanner.
pub fn no_scanner() {
    warning_line!(NO_QUEUE_ID, "pec_clamd = none: messages are not scanned for viruses, as a PEC provider must");
}

/// The virus scanner's signatures are older than `pec_clamd_max_age`.
pub fn signatures_old(age: &str, max_age: Duration) {
    warning_line!(NO_QUEUE_ID, "virus scanner: its signatures are {age}, pec_clamd_max_age is {} minutes", max_age.as_secs() / 60);
}

/// The virus scanner would let a virus in a message of this size pass, or not take the message.
pub fn scanner_blind(size: usize, what: &str) {
    warning_line!(NO_QUEUE_ID, "virus scanner: in a message of {size} bytes, which is allowed, it {what}; see docs/configuration.md");
}

/// The certificate that we sign with ends soon.
pub fn certificate_ends(days: i64, not_after: Moment, file: &Path) {
    warning_line!(NO_QUEUE_ID, "our certificate ends in {days} days, on {not_after}: pec_certificate_file = {}; see docs/keys.md", file.display());
}

/// The certificate that we sign with is not one to sign with, or cannot be read.
pub fn certificate_bad(why: &str) {
    error_line!(NO_QUEUE_ID, "our certificate: {why}");
}

/// The token with the signing key does not answer yet.
pub fn waiting_for_token(why: &str) {
    warning_line!(NO_QUEUE_ID, "waiting for the token: {why}");
}

/// The token with the signing key does not sign any more.
pub fn token_down(why: &str) {
    error_line!(NO_QUEUE_ID, "messages wait until the token with the signing key signs again: {why}");
}

/// The token signs again.
pub fn token_up() {
    info_line!(NO_QUEUE_ID, "the token with the signing key signs again");
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

/// The Access Point did not accept a message: its sender gets the notice.
pub fn non_accettazione(queue_id: &str, daticert: &Daticert, message_id: &str) {
    info_line!(
        queue_id,
        "non-accettazione: identificativo={} mittente={} message-id={message_id} errore={} reason={}",
        daticert.identificativo,
        daticert.mittente,
        daticert.errore,
        daticert.errore_esteso.as_deref().unwrap_or("none"),
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

/// A submission carries a virus: its sender gets the notice.
pub fn virus_in_submission(queue_id: &str, mittente: &str, virus: &str, kept_as: &str) {
    warning_line!(queue_id, "virus in a submission: mittente={mittente} virus={virus} kept-as={kept_as}");
}

/// An envelope carries a virus: it is delivered to nobody.
pub fn virus_in_envelope(queue_id: &str, busta: &Daticert, provider: &str, virus: &str, kept_as: &str) {
    warning_line!(
        queue_id,
        "virus in an envelope, not delivered: identificativo={} provider={provider} mittente={} virus={virus} kept-as={kept_as}",
        busta.identificativo,
        busta.mittente
    );
}

/// Another provider's scanner found what ours had not found at submission (RFC 6109 s. 2.2.2: that has to be looked into).
pub fn virus_missed(queue_id: &str, rilevazione: &Daticert, provider: &str, recipient: &str, virus: &str) {
    error_line!(
        queue_id,
        "our virus scanner let a virus pass that another provider found: identificativo={} mittente={} recipient={recipient} provider={provider} virus={virus}",
        rilevazione.identificativo,
        rilevazione.mittente
    );
}

/// The scanner's own limits keep it from scanning a message.
pub fn not_scanned(queue_id: &str, why: &str) {
    warning_line!(queue_id, "refused, the virus scanner does not scan it: {why}; see docs/configuration.md");
}

/// An envelope that is in custody already came again and was not taken again.
pub fn duplicate(queue_id: &str, busta: &Daticert, provider: &str) {
    info_line!(queue_id, "duplicate: identificativo={} provider={provider}, taken in charge before", busta.identificativo);
}

/// What arrived is no correct certified mail and is delivered in a busta di anomalia.
pub fn anomalia(queue_id: &str, sender: &str, recipients: usize, provider: Option<&str>, why: &str) {
    match provider {
        // A provider's signature and yet not in order: that is somebody's mistake, theirs or ours.
        Some(provider) => warning_line!(queue_id, "anomalia: from=<{sender}> recipients={recipients} provider={provider} reason={why}"),
        None => info_line!(queue_id, "anomalia: from=<{sender}> recipients={recipients} reason={why}"),
    }
}

/// What a provider signed came without TLS, and was taken.
pub fn clear_text(queue_id: &str, provider: &str) {
    warning_line!(queue_id, "clear text: provider={provider} sent certified mail without TLS, it is taken (pec_require_tls = no)");
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

/// Postfix gave a recipient up, and the recipient's provider has certified that it has the message.
pub fn failure_contradicted(queue_id: &str, identificativo: &str, recipient: &str) {
    warning_line!(queue_id, "no mancata consegna, the recipient's provider took the message: identificativo={identificativo} recipient={recipient}");
}

/// A notice of ours did not arrive.
pub fn notice_came_back(queue_id: &str, message_id: &str, recipient: &str, diagnostic: &str, again: bool) {
    let what = if again { "it is sent again" } else { "it is given up; the report is in the service mailbox" };
    error_line!(queue_id, "a notice could not be delivered, {what}: message-id={message_id} recipient={recipient} reason={diagnostic}");
}

/// A trigger whose notice pec-clock has already brought into the queue.
pub fn trigger_repeated(queue_id: &str, message_id: &str) {
    info_line!(queue_id, "trigger dropped, its notice was started before: message-id={message_id}");
}

/// pec-clock acts, alone on this database.
pub fn acting() {
    info_line!(NO_QUEUE_ID, "acting: no other pec-clock acts on this database");
}

/// Another pec-clock acts on this database.
pub fn standing_by() {
    info_line!(NO_QUEUE_ID, "standing by: another pec-clock acts on this database");
}

/// pec-clock started a notice: it is in the queue.
pub fn raised(kind: &str, identificativo: &str, recipient: &str, message_id: &str) {
    info_line!(NO_QUEUE_ID, "notice started: {kind}: identificativo={identificativo} recipient={recipient} message-id={message_id}");
}

/// A fact had no notice for so long that pec-clock starts it.
pub fn raised_again(kind: &str, identificativo: &str, recipient: &str, message_id: &str) {
    warning_line!(
        NO_QUEUE_ID,
        "the trigger of a notice did not come round and is started again: {kind}: identificativo={identificativo} recipient={recipient} message-id={message_id}"
    );
}

/// A preavviso left later than the rules allow: something stood still.
pub fn late(kind: &str, identificativo: &str, recipient: &str, accepted: Moment, sent: Moment) {
    error_line!(
        NO_QUEUE_ID,
        "audit violation: {kind} is late: identificativo={identificativo} recipient={recipient} accepted={accepted} sent={sent}"
    );
}

/// An original that nobody needs any more was deleted from the store.
pub fn original_deleted(custody: &str) {
    info_line!(NO_QUEUE_ID, "original deleted: custody={custody}");
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
