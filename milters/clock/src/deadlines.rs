//! The table of RFC 6109 s. 3.1.6 and DM 2/11/2005 art. 13: which notice is due for a recipient, and when.
//!
//! Promise: nothing here knows a database or a clock. Hours are counted in seconds from the acceptance; what
//! legal time does meanwhile does not matter.
//!
//! What is certified *now* decides, also where a stop of ours made the look late: a preavviso that says less
//! than we know would be false. So after 23 hours without any certificate both notices are due; with a presa
//! in carico, whenever it came, the second alone; with a delivery, whenever it came, none.

use pec_core::daticert::{Tipo, TipoDestinatario};
use pec_state::rows::FactKind;

const HOUR: i64 = 3600;

/// One of the deadlines of an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stage {
    /// Its notice.
    pub kind: FactKind,
    /// Seconds after the acceptance at which the notice is due.
    pub due: i64,
    /// Seconds after the acceptance from which it is late.
    pub late: i64,
}

/// Both, in order. The second notice may leave after 22 hours and must before 24; in the middle nothing that
/// takes a few minutes makes it early or late. The law names no end for the first; it is given the same hour.
pub const STAGES: [Stage; 2] = [
    Stage { kind: FactKind::Preavviso12, due: 12 * HOUR, late: 13 * HOUR },
    Stage { kind: FactKind::Preavviso24, due: 23 * HOUR, late: 24 * HOUR },
];

/// Of which stages the time has come, `elapsed` seconds after the acceptance.
pub fn reached(elapsed: i64) -> &'static [Stage] {
    &STAGES[..STAGES.iter().take_while(|stage| elapsed >= stage.due).count()]
}

/// Whether nothing is awaited for a recipient of this type any more: there was never anything to await, or
/// its end is certified. `certified` is what we or its provider certified.
pub fn is_over(tipo: TipoDestinatario, mut certified: impl Iterator<Item = Tipo>) -> bool {
    tipo == TipoDestinatario::Esterno || certified.any(Tipo::is_outcome)
}

/// Whether the notice of `stage`, whose time has come, is due for such a recipient.
pub fn is_due(stage: &Stage, tipo: TipoDestinatario, certified: impl Iterator<Item = Tipo> + Clone) -> bool {
    // The first one warns that the recipient's provider may not have the message.
    let only_if_not_taken = stage.kind == FactKind::Preavviso12;
    if only_if_not_taken && certified.clone().any(|certified| certified == Tipo::PresaInCarico) {
        return false;
    }
    !is_over(tipo, certified)
}

#[cfg(test)]
mod tests {
    use super::*;

    use FactKind::{Preavviso12, Preavviso24};
    use TipoDestinatario::{Certificato, Esterno};

    /// All notices that have become due for a recipient of whom `certified` is known, `elapsed` seconds after
    /// the acceptance.
    fn due(elapsed: i64, tipo: TipoDestinatario, certified: &[Tipo]) -> Vec<FactKind> {
        let kinds = certified.iter().copied();
        reached(elapsed)
            .iter()
            .filter(|stage| is_due(stage, tipo, kinds.clone()))
            .map(|stage| stage.kind)
            .collect()
    }

    #[test]
    fn rfc6109_3_1_6_which_notice_is_due_when() {
        const BEFORE_12: i64 = 12 * HOUR - 1;
        const BEFORE_23: i64 = 23 * HOUR - 1;
        for (what, elapsed, tipo, certified, expected) in [
            ("at once", 0, Certificato, &[][..], &[][..]),
            ("nothing came, too early", BEFORE_12, Certificato, &[], &[]),
            ("nothing came", 12 * HOUR, Certificato, &[], &[Preavviso12]),
            ("nothing came, too early for the second", BEFORE_23, Certificato, &[], &[Preavviso12]),
            ("nothing came at all", 23 * HOUR, Certificato, &[], &[Preavviso12, Preavviso24]),
            (
                "nothing came, seen late after a stop",
                80 * HOUR,
                Certificato,
                &[],
                &[Preavviso12, Preavviso24],
            ),
            ("taken in charge", 12 * HOUR, Certificato, &[Tipo::PresaInCarico], &[]),
            ("taken in charge and no more", 23 * HOUR, Certificato, &[Tipo::PresaInCarico], &[Preavviso24]),
            (
                "taken in charge, seen late after a stop",
                80 * HOUR,
                Certificato,
                &[Tipo::PresaInCarico],
                &[Preavviso24],
            ),
            ("delivered", 12 * HOUR, Certificato, &[Tipo::PresaInCarico, Tipo::AvvenutaConsegna], &[]),
            (
                "delivered, its presa in carico never came",
                12 * HOUR,
                Certificato,
                &[Tipo::AvvenutaConsegna],
                &[],
            ),
            (
                "delivered between the stages",
                23 * HOUR,
                Certificato,
                &[Tipo::PreavvisoErroreConsegna, Tipo::AvvenutaConsegna],
                &[],
            ),
            ("delivered, seen late after a stop", 80 * HOUR, Certificato, &[Tipo::AvvenutaConsegna], &[]),
            ("failed", 12 * HOUR, Certificato, &[Tipo::ErroreConsegna], &[]),
            (
                "taken in charge, then failed",
                23 * HOUR,
                Certificato,
                &[Tipo::PresaInCarico, Tipo::ErroreConsegna],
                &[],
            ),
            ("a virus was found", 23 * HOUR, Certificato, &[Tipo::RilevazioneVirus], &[]),
            (
                "the first notice ends nothing",
                23 * HOUR,
                Certificato,
                &[Tipo::PreavvisoErroreConsegna],
                &[Preavviso12, Preavviso24],
            ),
            ("ordinary mail", 23 * HOUR, Esterno, &[], &[]),
            ("the clock went back", -HOUR, Certificato, &[], &[]),
        ] {
            assert_eq!(due(elapsed, tipo, certified), expected, "{what}");
        }
    }

    #[test]
    fn dm_2005_art_13_the_second_notice_leaves_between_22_and_24_hours() {
        let [first, second] = STAGES;
        assert_eq!((first.due, first.late), (12 * HOUR, 13 * HOUR));
        assert!((22 * HOUR..24 * HOUR).contains(&second.due));
        assert_eq!(second.late, 24 * HOUR);
    }

    #[test]
    fn hours_are_hours_whatever_legal_time_does() {
        // Summer time begins on 28/03/2027 and ends on 31/10/2027 at 01:00 UTC; so does a year at midnight.
        for change in ["28/03/2027 03:00:00 +0200", "31/10/2027 02:00:00 +0100", "01/01/2027 00:00:00 +0100"]
        {
            let [giorno, ora, zona] = change.split(' ').collect::<Vec<_>>()[..] else { unreachable!() };
            let change = pec_core::clock::Moment::from_daticert(giorno, ora, zona).unwrap();
            let accepted = change.unix() - 6 * HOUR;
            assert!(due(accepted + 12 * HOUR - 1 - accepted, Certificato, &[]).is_empty());
            let notice = pec_core::clock::Moment::from_unix(accepted + 12 * HOUR);
            assert_eq!(due(notice.unix() - accepted, Certificato, &[]), [Preavviso12]);
            // The text tells both times with their own offset, so that people can count too.
            let before = pec_core::clock::Moment::from_unix(accepted);
            assert_eq!(before.zona() == notice.zona(), change.giorno().starts_with("01/01"));
        }
    }
}
