//! What a submission carries: viruses (RFC 6109 s. 3.1.3), and attachments that this provider does not take.
//!
//! Promise: nothing becomes an envelope that the scanner has not had to its last byte.

use pec_core::attachments::blocked;
use pec_core::mime::walk;
use pec_host::maillog;
use pec_milter::{Reply, Transaction};
use pec_program::LARGE;
use pec_program::scanner::Scan;
use pec_program::turns::Share;

use crate::checks::Eccezione;
use crate::session::AccessPoint;

/// What is to become of a message because of what it carries.
pub(crate) enum Carries {
    /// Nothing that keeps it here.
    Nothing,
    /// A virus, by its name.
    Virus(String),
    /// Something else for which its sender gets a notice of non-acceptance.
    NotAccepted(Eccezione),
    /// The scanner's limits are too low for it: waiting would not help.
    NotScanned(Reply),
}

impl AccessPoint {
    /// Scans a message and looks through its attachments, in one turn: each message may unpack
    /// [`pec_core::attachments::MOST_UNPACKED`] bytes. Viruses come first: a message with one has to be kept.
    /// What cannot be scanned is refused, and with a notice if what is wrong with it can be said.
    pub(crate) async fn carries(&self, transaction: &Transaction) -> anyhow::Result<Carries> {
        let turn = self.world.turns.wait(Share::Users).await?;
        let not_scanned = match self.world.scanner.scan(&turn, &transaction.header, &transaction.body).await?
        {
            Scan::Clean => None,
            Scan::Found(virus) => return Ok(Carries::Virus(virus)),
            Scan::NotScanned(why) => Some(why),
        };
        let body = transaction.body.clone().into_bytes();
        let kinds = &self.world.settings.blocked_attachments;
        // Where no kind is blocked the message must be a message all the same (RFC 6109 s. 3.1.1).
        let examine = || match kinds.is_empty() {
            true => walk(&transaction.header, &body, |_, _| {}).map(|()| Vec::new()),
            false => blocked(&transaction.header, &body, kinds),
        };
        // To walk a small message is quicker than to make room for it; what may be unpacked is not known
        // before.
        let examined = if kinds.is_empty() && body.len() < LARGE {
            examine()
        } else {
            tokio::task::block_in_place(examine)
        };
        Ok(match examined {
            Ok(found) if found.is_empty() => match not_scanned {
                None => Carries::Nothing,
                Some(why) => {
                    maillog::not_scanned(transaction.queue_id(), &why);
                    let text = "the message is too large or too complex to be scanned for viruses, nothing was \
                        accepted";
                    Carries::NotScanned(Reply::refuse("552", "5.3.4", text))
                }
            },
            Ok(found) => Carries::NotAccepted(Eccezione::Blocked(found)),
            Err(e) => Carries::NotAccepted(Eccezione::Mime(e)),
        })
    }
}
