//! Every line that an administrator reads about a message, and how lines are written.
//!
//! Promise: a line starts with the queue id (`NOQUEUE` where there is none), so that `grep QUEUEID` shows
//! Postfix and PEC together; `key=value` after a word that names the event; nothing in it that is not
//! printable. What needs a person says `warning:` or `error:` after the queue id. Errors mean that mail
//! waits, or that a rule of PEC could not be kept.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pec_core::clock::Moment;
use pec_core::daticert::Daticert;
use pec_core::showable::showable;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::NO_QUEUE_ID;

/// Writes the log to standard error, one line an event. Under systemd each line carries its priority, which
/// journald takes off again.
pub fn start() {
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(Level::INFO)
        .event_format(Lines { journal })
        .finish();
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
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
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
    showable(&text.replace(char::is_control, "?"))
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
    error_line!(
        NO_QUEUE_ID,
        "not reloaded, the configuration from before stays in force: program={program} reason={why}"
    );
}

/// A parameter was changed that only a restart takes up.
pub fn needs_restart(program: &str, parameter: &str) {
    warning_line!(NO_QUEUE_ID, "a restart is needed for the new {parameter}: program={program}");
}

/// What the directory of providers holds.
pub fn directory(providers: usize, domains: usize) {
    info_line!(NO_QUEUE_ID, "directory: providers={providers} domains={domains}");
}

/// Two providers of the directory claim the same thing, or a record has too many certificates.
pub fn directory_conflict(conflict: &str) {
    warning_line!(NO_QUEUE_ID, "directory: {conflict}");
}

/// A record of the directory of providers has a bad value.
pub fn directory_spoiled(what: &str) {
    error_line!(
        NO_QUEUE_ID,
        "directory: bad value: {what}; the record keeps its last good one; where it has none, mail that \
        hangs on it waits; tell who publishes the directory"
    );
}

/// The certificate of another provider breaks rules of RFC 6109 s. 5.5 that do not make it worthless.
pub fn profile_broken(provider: &str, sha1: &str, breaches: &str) {
    warning_line!(
        NO_QUEUE_ID,
        "certificate: that of {provider} (SHA-1 {sha1}) breaks the profile of RFC 6109 s. 5.5, it is \
        believed all the same: {breaches}"
    );
}

/// A provider signs over SHA-1. The network needs it; said once for each.
pub fn signed_with_sha1(common_name: &str) {
    info_line!(NO_QUEUE_ID, "signature: {common_name} signs with SHA-1, which is believed all the same");
}

/// Another directory of providers is in force: signed when, and how much of it is different.
pub fn directory_new(from: &str, signed: Option<Moment>, providers: usize, domains: usize, changes: usize) {
    let signed = signed.map_or("unknown".to_owned(), |at| at.to_string());
    info_line!(
        NO_QUEUE_ID,
        "directory: new: url={from} date={signed} providers={providers} domains={domains} \
        changes={changes}"
    );
}

/// One difference between the directory of providers in force and the one before.
pub fn directory_change(change: &str) {
    info_line!(NO_QUEUE_ID, "directory: {change}");
}

/// The directory of providers could not be fetched, or what was fetched does not count; the one in force
/// stays.
pub fn directory_refused(from: &str, why: &str) {
    warning_line!(NO_QUEUE_ID, "directory: not taken, the one in force stays: url={from} reason={why}");
}

/// The directory file has changed and is not usable; the program goes on with what it has read before.
pub fn directory_unreadable(why: &str) {
    error_line!(
        NO_QUEUE_ID,
        "directory: the changed file is not taken up, the one from before stays in force: {why}"
    );
}

/// What must be written down before a changed directory is in force cannot be; the one from before stays.
pub fn directory_waits(why: &str) {
    error_line!(NO_QUEUE_ID, "directory: the changed file is not taken up yet, it is tried again: {why}");
}

/// A signature is believed though its certificate may have been revoked: who, and why it is not known.
pub fn crl_warning(words: &str) {
    warning_line!(NO_QUEUE_ID, "CRL: {words}");
}

/// A certificate names this address of its CRL besides others; it is not asked.
pub fn crl_skipped(url: &str) {
    info_line!(NO_QUEUE_ID, "CRL: skipped, since only http: is asked: url={url}");
}

/// A new CRL is in force.
pub fn crl_new(url: &str, this_update: Moment, next_update: Moment, revoked: usize) {
    info_line!(
        NO_QUEUE_ID,
        "CRL: new: url={url} this_update={this_update} next_update={next_update} revoked={revoked}"
    );
}

/// A CRL could not be fetched, or what was fetched does not count; the one from before, if there is one,
/// stays in force.
pub fn crl_refused(url: &str, why: &str, in_force_until: Option<Moment>) {
    match in_force_until {
        Some(until) => warning_line!(
            NO_QUEUE_ID,
            "CRL: not taken, the one from before stays in force until {until}: url={url} reason={why}"
        ),
        None => {
            error_line!(
                NO_QUEUE_ID,
                "CRL: not taken, and there is none from before: url={url} \
                reason={why}"
            )
        }
    }
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
    warning_line!(
        NO_QUEUE_ID,
        "pec_clamd = none: messages are not scanned for viruses, as a PEC provider must"
    );
}

/// The virus scanner's signatures are older than `pec_clamd_max_age`.
pub fn signatures_old(age: &str, max_age: Duration) {
    warning_line!(
        NO_QUEUE_ID,
        "virus scanner: its signatures are {age}, pec_clamd_max_age is {} minutes",
        max_age.as_secs() / 60
    );
}

/// The virus scanner would let a virus in a message of this size pass, or not take the message.
pub fn scanner_blind(size: usize, what: &str) {
    warning_line!(
        NO_QUEUE_ID,
        "virus scanner: in a message of {size} bytes, which is allowed, it {what}; see \
        docs/configuration.md"
    );
}

/// The certificate that we sign with ends soon.
pub fn certificate_ends(days: i64, not_after: Moment, file: &Path) {
    warning_line!(
        NO_QUEUE_ID,
        "our certificate ends in {days} days, on {not_after}: pec_certificate_file = {}; see docs/keys.md",
        file.display()
    );
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

/// A day of the retained log has its file.
pub fn day_closed(day: &str, rows: u64, sha256: &str) {
    info_line!(NO_QUEUE_ID, "day closed: day={day} rows={rows} sha256={sha256}");
}

/// A checkpoint of the retained log goes to be signed and timestamped.
pub fn checkpoint_attested(size: u64) {
    info_line!(NO_QUEUE_ID, "checkpoint to be signed: rows={size}");
}

/// The log key has a new endorsement.
pub fn log_key_endorsed(public: &str) {
    info_line!(NO_QUEUE_ID, "log key signed: key={public}");
}

/// A witness has a checkpoint.
pub fn witnessed(witness: &str, size: u64) {
    info_line!(NO_QUEUE_ID, "checkpoint witnessed: witness={witness} rows={size}");
}

/// `pec_tsa_url` is not set.
pub fn no_timestamps() {
    warning_line!(
        NO_QUEUE_ID,
        "pec_tsa_url is not set: the retained log has no timestamps, and nobody but us says when its days \
        were closed"
    );
}

/// Something that proves the retained log is not there yet. Mail does not wait for it.
pub fn proof_missing(why: &str) {
    warning_line!(NO_QUEUE_ID, "the retained log's proofs wait, and are tried again every minute: {why}");
}

/// What was missing is there.
pub fn proof_made(what: &str) {
    info_line!(NO_QUEUE_ID, "the retained log's proofs go on: what={what}");
}

/// A row about no message cannot be written into the retained log yet: it waits, mail does not.
pub fn row_waits(words: &str, why: &str) {
    warning_line!(NO_QUEUE_ID, "retained log: a row waits to be written: {why}: {words}");
}

/// A row about no message is not in the retained log and will not be.
pub fn row_lost(words: &str) {
    error_line!(NO_QUEUE_ID, "retained log: not written: {words}");
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
        "virus in an envelope, not delivered: identificativo={} provider={provider} mittente={} \
        virus={virus} kept-as={kept_as}",
        busta.identificativo,
        busta.mittente
    );
}

/// Another provider's scanner found what ours had not found at submission (RFC 6109 s. 2.2.2: that has to be
/// looked into).
pub fn virus_missed(queue_id: &str, rilevazione: &Daticert, provider: &str, recipient: &str, virus: &str) {
    error_line!(
        queue_id,
        "our virus scanner let a virus pass that another provider found: identificativo={} mittente={} \
        recipient={recipient} provider={provider} virus={virus}",
        rilevazione.identificativo,
        rilevazione.mittente
    );
}

/// The scanner's own limits keep it from scanning a message.
pub fn not_scanned(queue_id: &str, why: &str) {
    warning_line!(queue_id, "refused, the virus scanner does not scan it: {why}; see docs/configuration.md");
}

/// A receipt with a virus in what its provider signed: it is a proof, and goes on.
pub fn virus_in_receipt(queue_id: &str, provider: &str, virus: &str) {
    warning_line!(
        queue_id,
        "virus in a receipt, which is delivered all the same: provider={provider} virus={virus}"
    );
}

/// The scanner's own limits keep it from scanning a receipt.
pub fn receipt_not_scanned(queue_id: &str, provider: &str, why: &str) {
    warning_line!(
        queue_id,
        "a receipt is delivered that the virus scanner does not scan: provider={provider} {why}; see \
        docs/configuration.md"
    );
}

/// An envelope that is in custody already came again and was not taken again.
pub fn duplicate(queue_id: &str, busta: &Daticert, provider: &str) {
    info_line!(
        queue_id,
        "duplicate: identificativo={} provider={provider}, taken in charge before",
        busta.identificativo
    );
}

/// What arrived is no correct certified mail and is delivered in a busta di anomalia.
pub fn anomalia(queue_id: &str, sender: &str, recipients: usize, provider: Option<&str>, why: &str) {
    match provider {
        // A provider's signature and yet not in order: that is somebody's mistake, theirs or ours.
        Some(provider) => warning_line!(
            queue_id,
            "anomalia: from=<{sender}> recipients={recipients} provider={provider} reason={why}"
        ),
        None => info_line!(queue_id, "anomalia: from=<{sender}> recipients={recipients} reason={why}"),
    }
}

/// What a provider signed came without TLS, and was taken.
pub fn clear_text(queue_id: &str, provider: &str) {
    warning_line!(
        queue_id,
        "clear text: provider={provider} sent certified mail without TLS, it is taken (pec_require_tls = \
        no)"
    );
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

/// A receipt that speaks of people besides those about whom it counts.
pub fn ricevuta_in_part(queue_id: &str, ricevuta: &Daticert, provider: &str, others: usize) {
    warning_line!(
        queue_id,
        "ricevuta speaks of {others} recipients whom the message did not have or {provider} does not serve, \
        who are left out: tipo={} identificativo={}",
        ricevuta.tipo,
        ricevuta.identificativo
    );
}

/// A receipt that verifies, for a message that nobody here sent.
pub fn ricevuta_of_nothing(queue_id: &str, ricevuta: &Daticert, provider: &str) {
    warning_line!(
        queue_id,
        "ricevuta of a message that was never sent from here: tipo={} identificativo={} \
        provider={provider}; delivered, nothing else changed",
        ricevuta.tipo,
        ricevuta.identificativo
    );
}

/// A receipt that verifies, of a provider that may not speak of what it tells.
pub fn ricevuta_of_another(queue_id: &str, ricevuta: &Daticert, why: &str) {
    warning_line!(
        queue_id,
        "ricevuta that counts for nothing: tipo={} identificativo={}; {why}; delivered, nothing else changed",
        ricevuta.tipo,
        ricevuta.identificativo
    );
}

/// Postfix is configured so that mail could pass by this program.
pub fn way_past(program: &str, way: &str) {
    error_line!(
        NO_QUEUE_ID,
        "{program}: mail could pass by, so nothing is taken (451) until that is mended: {way}; then postfix reload"
    );
}

/// That is mended.
pub fn no_way_past(program: &str) {
    info_line!(NO_QUEUE_ID, "{program}: no mail can pass by any more, mail is taken again");
}

/// What Postfix is configured for cannot be read.
pub fn postfix_not_read(why: &str) {
    warning_line!(NO_QUEUE_ID, "Postfix's configuration cannot be read, it is tried again: {why}");
}

/// A notice of ours was made.
pub fn notice(
    queue_id: &str,
    tipo: &str,
    identificativo: &str,
    recipient: &str,
    moment: Moment,
    message_id: &str,
) {
    info_line!(
        queue_id,
        "{tipo}: identificativo={identificativo} recipient={recipient} time={moment} \
        message-id={message_id}"
    );
}

/// A notice came out differently than the first time, for a reason that is known.
pub fn notice_differs(queue_id: &str, message_id: &str, why: &str) {
    warning_line!(queue_id, "notice made again with other bytes: message-id={message_id} reason={why}");
}

/// The mailbox has it.
pub fn handed_over(queue_id: &str, what: &str, mailbox: &str) {
    info_line!(queue_id, "handed over: {what} to={mailbox}");
}

/// What comes again was taken before, so nothing is made or handed over.
pub fn handed_over_before(queue_id: &str, what: &str) {
    info_line!(queue_id, "handed over before, nothing is done again: {what}");
}

/// Something is on its way to a mailbox of ours that no program of ours let in.
pub fn unknown_message(queue_id: &str, sender: &str, mailbox: &str, why: &str) {
    error_line!(
        queue_id,
        "alarm: a message that no milter let in is not delivered, it waits: from=<{sender}> to={mailbox} \
        reason={why}. Look how it came \
         into the queue (`postcat -q {queue_id}`), and whether smtpd_milters and non_smtpd_milters are as \
        postfix-conf has them (`pecctl check`)"
    );
}

/// A notice found no mailbox any more and lies in the service mailbox.
pub fn notice_without_addressee(
    queue_id: &str,
    message_id: &str,
    addressee: &str,
    service: &str,
    reply: &str,
) {
    error_line!(
        queue_id,
        "a notice has no addressee any more, it is in the service mailbox: message-id={message_id} \
        to={addressee} kept-in={service} reason={reply}"
    );
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
    warning_line!(
        queue_id,
        "no mancata consegna, the recipient's provider took the message: identificativo={identificativo} \
        recipient={recipient}"
    );
}

/// A notice of ours did not arrive.
pub fn notice_came_back(queue_id: &str, message_id: &str, recipient: &str, diagnostic: &str, again: bool) {
    let what =
        if again { "it is sent again" } else { "it is given up; the report is in the service mailbox" };
    error_line!(
        queue_id,
        "a notice could not be delivered, {what}: message-id={message_id} recipient={recipient} \
        reason={diagnostic}"
    );
}

/// pec-clock acts, alone on this database.
pub fn acting() {
    info_line!(NO_QUEUE_ID, "acting: no other pec-clock acts on this database");
}

/// pec-clock seals the register, which has so many rows.
pub fn sealing(rows: u64) {
    info_line!(NO_QUEUE_ID, "sealing: the register has {rows} sealed rows");
}

/// Nothing is sealed, for this reason. Mail goes on.
pub fn not_sealed(why: &str) {
    error_line!(NO_QUEUE_ID, "the register is not sealed: {why}");
}

/// Rows are sealed again.
pub fn sealing_again() {
    info_line!(NO_QUEUE_ID, "the register is sealed again");
}

/// A rule of certified mail was not kept.
pub fn audit_violation(rule: &str, identificativo: &str, what: &str) {
    error_line!(NO_QUEUE_ID, "audit violation: {rule}: identificativo={identificativo} {what}");
}

/// The rules could not be asked.
pub fn not_audited(why: &str) {
    error_line!(NO_QUEUE_ID, "the rules of certified mail were not asked: {why}");
}

/// Another pec-clock acts on this database.
pub fn standing_by() {
    info_line!(NO_QUEUE_ID, "standing by: another pec-clock acts on this database");
}

/// pec-clock started a notice: it is in the queue.
pub fn notice_started(kind: &str, identificativo: &str, recipient: &str, message_id: &str) {
    info_line!(
        NO_QUEUE_ID,
        "notice started: {kind}: identificativo={identificativo} recipient={recipient} \
        message-id={message_id}"
    );
}

/// A fact had no notice for so long that pec-clock starts it.
pub fn started_again(kind: &str, identificativo: &str, recipient: &str, message_id: &str) {
    warning_line!(
        NO_QUEUE_ID,
        "the trigger of a notice did not come round and is started again: {kind}: \
        identificativo={identificativo} recipient={recipient} message-id={message_id}"
    );
}

/// A preavviso left later than the rules allow: something stood still.
pub fn late(kind: &str, identificativo: &str, recipient: &str, accepted: Moment, sent: Moment) {
    error_line!(
        NO_QUEUE_ID,
        "audit violation: {kind} is late: identificativo={identificativo} recipient={recipient} \
        accepted={accepted} sent={sent}"
    );
}

/// Somebody tried to make a trigger work who is not a milter of ours, or a database was restored from before.
pub fn false_trigger(queue_id: &str, trigger: &str, why: &str) {
    error_line!(queue_id, "no notice, the trigger is not believed: trigger={trigger} reason={why}");
}

/// A row that no program of ours wrote so: somebody else writes in the database, or a key is missing.
pub fn forged_row(table: &str, key: &str) {
    error_line!(
        NO_QUEUE_ID,
        "alarm: a row was not written by these programs, or was changed: table={table} key={key}; nothing \
        follows from it. Find out who can write \
         to the database; if a key was taken out of pec_row_keys_file, put it back below the first line"
    );
}

/// What `log` logs in this thread, for tests; with priorities, as for journald, or without.
pub fn captured(journal: bool, log: impl FnOnce()) -> String {
    let sink = Sink::default();
    let writer = sink.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .event_format(Lines { journal })
        .finish();
    tracing::subscriber::with_default(subscriber, log);
    let bytes = sink.0.lock().unwrap_or_else(PoisonError::into_inner);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_start_with_the_queue_id() {
        assert_eq!(
            captured(false, || refused("4abc", "a@b", "550 no")),
            "4abc: refused: from=a@b reply=550 no\n"
        );
        assert_eq!(captured(false, || waits("4abc", "no database")), "4abc: error: waits: no database\n");
        assert_eq!(captured(false, || tracing::warn!("of a library")), "NOQUEUE: warning: of a library\n");
    }

    #[test]
    fn nothing_unprintable_gets_through() {
        assert_eq!(
            captured(false, || refused("4abc", "a\r\n4def: accettazione", "\u{1b}[31m")),
            "4abc: refused: from=a??4def: accettazione reply=?[31m\n"
        );
    }

    #[test]
    fn journald_gets_the_priority() {
        assert_eq!(captured(true, || stopped("pec-access")), "<6>NOQUEUE: stopped: program=pec-access\n");
        assert_eq!(captured(true, || waits("4abc", "x")), "<3>4abc: error: waits: x\n");
    }
}
