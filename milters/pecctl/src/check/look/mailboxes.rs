//! Which mailboxes there are, as the mailbox server says.

use pec_core::address::Address;
use pec_core::directory::Directory;
use pec_core::identifier::fresh;
use pec_core::notices::service_address;
use pec_host::parameters::Settings;
use pec_program::mailbox::Mailboxes;

use crate::check::look::ask::{Known, reason};

/// An address, and whether mail for it is taken.
type Taken = (String, Known<bool>);

/// Asks for the mailboxes that must exist (of the service, of our record in the directory), and for an
/// address that nobody has.
pub(crate) async fn read(settings: &Settings, directory: Option<&Directory>) -> (Vec<Taken>, Option<Taken>) {
    let server = Mailboxes::new(settings);
    let ask = async |address: String| -> Taken {
        let taken = match Address::parse(&address) {
            Some(parsed) => server.exists(&parsed).await.map_err(reason),
            None => Err("no mail address".to_owned()),
        };
        (address, taken)
    };
    let of_record = directory
        .and_then(|d| d.record(&settings.provider_name, settings.provider_unit.as_deref()))
        .and_then(|record| record.mail_receipt.as_ref())
        .map(ToString::to_string);
    let mut needed = Vec::new();
    for address in [Some(service_address(&settings.service_domain)), of_record].into_iter().flatten() {
        needed.push(ask(address).await);
    }
    let nobody = match fresh() {
        Ok(name) => Some(ask(format!("{name}@{}", settings.service_domain)).await),
        Err(_) => None,
    };
    (needed, nobody)
}
