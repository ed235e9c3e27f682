//! What a submission carries: viruses (RFC 6109 s. 3.1.3), and attachments that this provider does not take.
//!
//! Promise: nothing becomes an envelope that the scanner has not had to its last byte.

use pec_core::attachments::{Blocked, blocked};
use pec_core::daticert::Errore;
use pec_core::maillog;
use pec_core::mime::walk;
use pec_milter::clamd::Scan;
use pec_milter::{LARGE, Reply, Transaction};

use crate::session::AccessPoint;

/// Messages whose attachments are looked through at the same time: each may unpack
/// [`pec_core::attachments::MOST_UNPACKED`] bytes.
pub(crate) const EXAMINED_AT_ONCE: usize = 4;

/// What is to become of a message because of what it carries.
pub(crate) enum Carries {
    /// Nothing that keeps it here.
    Nothing,
    /// Something for which its sender gets a notice of non-acceptance: the cause, in Italian and in English.
    NotAccepted(Errore, (String, String)),
    /// The scanner's limits are too low for it: waiting would not help.
    NotScanned(Reply),
}

impl AccessPoint {
    /// Scans a message and looks through its attachments. Viruses come first: a message with one has to be kept.
    pub(crate) async fn carries(&self, transaction: &Transaction) -> anyhow::Result<Carries> {
        match self.world.scanner.scan(&transaction.header, &transaction.body).await? {
            Scan::Clean => {}
            Scan::Found(virus) => return Ok(Carries::NotAccepted(Errore::Virus, (virus.clone(), virus))),
            Scan::NotScanned(why) => {
                maillog::not_scanned(transaction.queue_id(), &why);
                let text = "the message is too large or too complex to be scanned for viruses, nothing was accepted";
                return Ok(Carries::NotScanned(Reply::refuse("552", "5.3.4", text)));
            }
        }
        let _turn = self.examining.acquire().await?;
        let body = transaction.body.clone().into_bytes();
        let altro = |italiano: String, inglese: String| Ok(Carries::NotAccepted(Errore::Altro, (italiano, inglese)));
        let kinds = &self.world.settings.blocked_attachments;
        // Where no kind is blocked the message must be a message all the same (RFC 6109 s. 3.1.1).
        let examine = || match kinds.is_empty() {
            true => walk(&transaction.header, &body, |_, _| {}).map(|()| Vec::new()),
            false => blocked(&transaction.header, &body, kinds),
        };
        // To walk a small message is quicker than to make room for it; what may be unpacked is not known before.
        let examined = if kinds.is_empty() && body.len() < LARGE { examine() } else { tokio::task::block_in_place(examine) };
        match examined {
            Ok(found) if found.is_empty() => Ok(Carries::Nothing),
            Ok(found) => {
                let named = |words: fn(&Blocked) -> String| found.iter().map(words).collect::<Vec<_>>().join(", ");
                altro(
                    format!("allegati di tipo non ammesso: {}", named(Blocked::italiano)),
                    format!("attachments of a kind that is not allowed: {}", named(ToString::to_string)),
                )
            }
            Err(e) => altro(format!("struttura MIME non valida ({e})"), format!("a malformed MIME structure ({e})")),
        }
    }
}
