//! The invariants of certified mail, asked of what the provider has written down.
//!
//! Promise: an answer is a violation that somebody must look at, never a matter of taste. Each rule is one
//! question that gives what breaks it: which message, and what about it. A row and a fact belong together by the
//! message's identifier: what the log calls a provider is what daticert.xml says, which the directory may spell in
//! another way. pec-clock asks about the last days,
//! `pecctl log audit` about everything.

use pec_core::clock::Moment;
use pec_core::daticert::Tipo;
use pec_core::daticert::TipoDestinatario::Certificato;
use pec_state::event::Event::{self, Accesso};
use pec_state::event::RICEVUTA;
use pec_state::names::list;
use pec_state::rows::FactKind::{
    self, Accettazione, AvvenutaConsegna, NonAccettazione, Preavviso24, PresaInCarico, RilevazioneVirus,
};
use tokio_postgres::{Client, Error};

/// One rule.
#[derive(Debug)]
pub struct Rule {
    /// Its name, in rows, log lines and metrics.
    pub name: &'static str,
    /// What it says.
    pub meaning: &'static str,
    /// The question: gives the message's identificativo and what is wrong. `$1`: rows from after this number
    /// on; `$2`: the time as Unix seconds.
    sql: fn() -> String,
}

/// What breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Violation {
    /// The rule's name.
    pub rule: &'static str,
    /// The message.
    pub identificativo: String,
    /// What about it.
    pub what: String,
}

/// The rule whose answer another process may change at any moment.
pub const EVERYTHING_IS_SEALED: &str = "everything-is-sealed";

/// Rows of one rule that are told.
const MOST: &str = "LIMIT 1000";

/// The kinds of facts that say how a message ended for a recipient, as a list in SQL.
fn outcomes() -> String {
    list(FactKind::ALL.iter().filter(|kind| kind.is_outcome()))
}

/// All rules.
pub const RULES: &[Rule] = &[
    Rule {
        name: "no-receipt-without-fact",
        meaning: "every notice that was made has its fact",
        sql: || {
            format!(
                "
                SELECT identificativo, event || ' ' || coalesce(message_id, '')
                FROM log
                WHERE seq > $1 AND $2::int8 IS NOT NULL
                  AND event IN ({notices})
                  AND NOT EXISTS (
                      SELECT FROM fact
                      WHERE fact.identificativo = log.identificativo
                        AND fact.kind = log.event AND fact.message_id = log.message_id)",
                notices = list(Event::all().into_iter().filter(|event| event.is_notice())),
            )
        },
    },
    Rule {
        name: "every-receipt-is-a-row",
        meaning: "every notice that was made stands in the retained log, with the bytes that it had",
        sql: || {
            "
            SELECT fact.identificativo, fact.kind || ' ' || fact.recipient || ' ' || fact.message_id
            FROM fact
            JOIN (SELECT DISTINCT identificativo FROM log
                  WHERE seq > $1 AND $2::int8 IS NOT NULL) AS m
              ON fact.identificativo = m.identificativo
            WHERE fact.notice_sha256 IS NOT NULL
              AND (SELECT count(*) FROM log
                   WHERE log.identificativo = fact.identificativo AND log.event = fact.kind
                     AND log.message_id = fact.message_id AND log.message_sha256 = fact.notice_sha256) = 0"
                .to_owned()
        },
    },
    Rule {
        name: "accepted-or-not",
        meaning: "a message is accepted once or refused once",
        // One that was made again, because the certificate was another one by then, is the same notice.
        sql: || {
            format!(
                "
                SELECT identificativo, string_agg(event, ', ' ORDER BY seq)
                FROM log
                WHERE seq > $1 AND $2::int8 IS NOT NULL
                  AND event IN ({either})
                GROUP BY identificativo
                HAVING count(DISTINCT message_id) > 1",
                either = list([Event::Notice(Accettazione), Event::Notice(NonAccettazione)]),
            )
        },
    },
    Rule {
        name: "one-outcome",
        meaning: "a recipient has the message or has it not",
        sql: || {
            format!(
                "
                SELECT a.identificativo, a.recipient || ': ' || a.kind || ', ' || b.kind
                FROM fact AS a
                JOIN (SELECT DISTINCT identificativo FROM log
                      WHERE seq > $1 AND $2::int8 IS NOT NULL) AS m
                  ON a.identificativo = m.identificativo
                JOIN fact AS b
                  ON b.provider = a.provider AND b.identificativo = a.identificativo
                 AND md5(b.recipient) = md5(a.recipient)
                WHERE a.kind = '{AvvenutaConsegna}'
                  AND b.kind IN ({outcomes}) AND b.kind <> '{AvvenutaConsegna}'",
                outcomes = outcomes(),
            )
        },
    },
    Rule {
        name: "times-in-order",
        meaning: "nothing is certified before the message was there",
        sql: || {
            format!(
                "
                SELECT fact.identificativo, fact.kind || ' ' || fact.recipient
                FROM log
                JOIN sent ON sent.identificativo = log.identificativo
                JOIN fact ON fact.provider = sent.provider AND fact.identificativo = sent.identificativo
                WHERE log.seq > $1 AND $2::int8 IS NOT NULL
                  AND log.event = '{Accesso}'
                  AND fact.happened_at < date_trunc('second', log.happened_at)"
            )
        },
    },
    Rule {
        name: "every-message-ends",
        meaning: "25 hours after acceptance every certified recipient has a delivery, a failure, or the \
            notice of 24 hours",
        sql: || {
            format!(
                "
                SELECT log.identificativo, r.address
                FROM log
                JOIN fact AS a ON a.identificativo = log.identificativo AND a.kind = '{Accettazione}',
                     unnest(log.destinatari) AS d (text),
                     lower(left(d.text, -length(' ({Certificato})'))) AS r (address)
                WHERE log.seq > $1
                  AND log.event = '{Accesso}'
                  AND d.text LIKE '% ({Certificato})'
                  AND a.happened_at < to_timestamp($2::int8 - 90000)
                  AND NOT EXISTS (
                      SELECT FROM fact AS f
                      WHERE f.provider = a.provider AND f.identificativo = a.identificativo
                        AND f.kind IN ({outcomes}, '{Preavviso24}') AND md5(f.recipient) = md5(r.address))
                  AND NOT EXISTS (
                      SELECT FROM ricevuta AS v
                      WHERE v.identificativo = log.identificativo
                        AND v.kind IN ({outcomes_of_others}) AND lower(v.recipient) = r.address)",
                outcomes = outcomes(),
                outcomes_of_others = list(Tipo::ALL.iter().filter(|tipo| tipo.is_outcome())),
            )
        },
    },
    Rule {
        name: "no-notice-pending",
        meaning: "an hour after a fact its notice is made, a day and an hour after it the notice is in a \
            mailbox or sent",
        // A refusal that its client did not hear of was never sent: the client submits again, and that is
        // another one.
        sql: || {
            format!(
                "
                SELECT identificativo, kind || ' ' || recipient
                FROM fact
                WHERE NOT handed_over AND kind <> '{NonAccettazione}' AND $1::int8 IS NOT NULL
                  AND happened_at < to_timestamp(
                      $2::int8 - CASE WHEN notice_sha256 IS NULL THEN 3600 ELSE 90000 END)
                  AND (kind <> '{RilevazioneVirus}' OR EXISTS (
                      SELECT FROM fact p WHERE p.kind = '{PresaInCarico}' AND p.source = fact.source))"
            )
        },
    },
    Rule {
        name: "no-custody-pending",
        meaning: "six days after a presa in carico every recipient has an outcome",
        sql: || {
            format!(
                "
                SELECT c.identificativo, r.address
                FROM custody AS c, unnest(c.recipients) AS r (address)
                WHERE c.taken_at < to_timestamp($2::int8 - 518400)
                  AND (c.taken_at > to_timestamp($2::int8 - 1209600) OR $1::int8 = 0)
                  AND EXISTS (
                      SELECT FROM fact AS p
                      WHERE p.provider = c.provider AND p.identificativo = c.identificativo
                        AND p.kind = '{PresaInCarico}')
                  AND NOT EXISTS (
                      SELECT FROM fact AS f
                      WHERE f.provider = c.provider AND f.identificativo = c.identificativo
                        AND f.kind IN ({outcomes}) AND md5(f.recipient) = md5(lower(r.address)))",
                outcomes = outcomes(),
            )
        },
    },
    Rule {
        name: "receipts-are-rows",
        meaning: "every receipt of another provider stands in the retained log",
        sql: || {
            format!(
                "
                SELECT v.identificativo, v.kind || ' ' || v.recipient
                FROM ricevuta AS v
                JOIN (SELECT DISTINCT identificativo FROM log
                      WHERE seq > $1 AND $2::int8 IS NOT NULL) AS m
                  ON v.identificativo = m.identificativo
                WHERE NOT EXISTS (
                    SELECT FROM log
                    WHERE log.identificativo = v.identificativo AND log.event = '{RICEVUTA}' || v.kind
                      AND starts_with(v.message_id, log.message_id))"
            )
        },
    },
    Rule {
        name: EVERYTHING_IS_SEALED,
        meaning: "a row is sealed within two minutes",
        sql: || {
            "
            SELECT identificativo, 'row ' || seq || ' of ' || recorded_at
            FROM log
            WHERE (seq > (SELECT coalesce(max(high), 0) FROM seal)
                   OR seq <@ (SELECT gaps FROM seal ORDER BY number DESC LIMIT 1))
              AND seq > $1
              AND recorded_at < to_timestamp($2::int8 - 120)"
                .to_owned()
        },
    },
];

/// The number of the last row before the last `days` days; 0: there is none.
pub async fn row_before(client: &Client, days: i64, now: Moment) -> Result<i64, Error> {
    let day = i32::try_from(now.unix().div_euclid(86_400) - days).unwrap_or(0);
    Ok(client
        .query_one(
            "SELECT coalesce(max(high), 0) FROM seal WHERE day < date '1970-01-01' + $1::int4",
            &[&day],
        )
        .await?
        .get(0))
}

/// What breaks the rules among rows after number `after`, as of `now`; at most a thousand for each rule.
pub async fn audit(client: &Client, after: i64, now: Moment) -> Result<Vec<Violation>, Error> {
    let mut violations = Vec::new();
    for rule in RULES {
        let rows = client.query(&format!("{} {MOST}", (rule.sql)()), &[&after, &now.unix()]).await?;
        violations.extend(rows.iter().map(|row| Violation {
            rule: rule.name,
            identificativo: row.get(0),
            what: row.get(1),
        }));
    }
    violations.sort();
    violations.dedup();
    Ok(violations)
}
