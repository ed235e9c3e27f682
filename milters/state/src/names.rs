//! Spellings of ours in the text of a statement.
//!
//! Promise: a kind or an event stands in SQL as the enumeration spells it that owns it. Such a name goes into
//! the text and is no parameter: PostgreSQL takes a partial index (`WHERE kind = 'accettazione'`) only for a
//! statement whose text has the same constant, and it knows how many rows a constant has.

use std::fmt::Display;

/// A list: `'accettazione', 'non-accettazione'`. Nothing is escaped: only spellings of ours come here, which
/// are letters, digits and hyphens.
pub fn list<T: Display>(spelled: impl IntoIterator<Item = T>) -> String {
    spelled.into_iter().map(|one| format!("'{one}'")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use pec_core::daticert::Tipo;

    use super::*;
    use crate::event::Event;
    use crate::rows::FactKind;

    #[test]
    fn a_list_has_the_spellings_in_their_order() {
        let outcomes = list(FactKind::ALL.iter().filter(|kind| kind.is_outcome()));
        assert_eq!(outcomes, "'avvenuta-consegna', 'rilevazione-virus', 'errore-consegna'");
        assert_eq!(
            list([Event::Accesso, Event::Ricevuta(Tipo::ErroreConsegna)]),
            "'accesso', 'ricevuta-errore-consegna'"
        );
    }

    #[test]
    fn no_spelling_needs_to_be_escaped() {
        let events = Event::all().into_iter().map(Event::name);
        let kinds = FactKind::ALL.iter().map(ToString::to_string);
        for name in events.chain(kinds).chain(Tipo::ALL.iter().map(ToString::to_string)) {
            let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            assert!(!name.is_empty() && name.bytes().all(is_plain), "{name}");
        }
    }
}
