//! Triggers: addresses that have pec-delivery write a notice when a copy comes round to them.
//!
//! Promise: a trigger names a row, and proves nothing by itself. It comes round with the bytes of its
//! envelope, or with a body that the table `trigger_body` names.

use crate::database::Database;
use crate::fact_kind::FactKind;
use crate::pool::DatabaseError;
use crate::sql::Sql;

/// Domain of the internal addresses that make pec-delivery write a notice. Routed by `transport_maps` to its
/// LMTP, in no `relay_domains`, refused from every client.
pub const NOTICES_DOMAIN: &str = "notices.pec.internal";

/// Whether an address is one of the internal ones, which no client may use.
pub fn is_internal_domain(domain: &str) -> bool {
    domain.eq_ignore_ascii_case(NOTICES_DOMAIN)
}

/// The name of the trigger by which a notice that came back is sent again, before `+ID`.
const RISPEDIZIONE: &str = "rispedizione";

/// What a trigger asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// A notice of this kind.
    Notice(FactKind),
    /// That a notice which came back is sent again.
    Again,
}

/// A trigger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trigger {
    /// What it asks for.
    pub wanted: Wanted,
    /// The id of the fact, or of the row from which the fact comes where the trigger makes it one.
    pub id: String,
}

impl Trigger {
    /// The one that asks for a notice.
    pub fn notice(kind: FactKind, id: &str) -> Self {
        Self { wanted: Wanted::Notice(kind), id: id.to_owned() }
    }

    /// The one that asks for the notice of this fact, which came back, once more.
    pub fn again(fact: &str) -> Self {
        Self { wanted: Wanted::Again, id: fact.to_owned() }
    }

    /// Reads the local part of a trigger's address.
    pub fn parse(local_part: &str) -> Option<Self> {
        let (kind, id) = local_part.split_once('+')?;
        let wanted = match kind.to_ascii_lowercase() {
            kind if kind == RISPEDIZIONE => Wanted::Again,
            kind => Wanted::Notice(kind.parse().ok()?),
        };
        Some(Self { wanted, id: id.to_owned() })
    }

    /// Its name, the part of its address before the `@`, as the table `trigger_body` has it: `KIND+ID`.
    pub fn name(&self) -> String {
        match self.wanted {
            Wanted::Notice(kind) => format!("{kind}+{}", self.id),
            Wanted::Again => format!("{RISPEDIZIONE}+{}", self.id),
        }
    }

    /// Its address.
    pub fn address(&self) -> String {
        format!("{}@{NOTICES_DOMAIN}", self.name())
    }
}

impl Database {
    /// Allows these triggers to come round with a body of this hash.
    pub async fn insert_trigger_bodies(
        &self,
        triggers: &[Trigger],
        body_sha256: &[u8],
    ) -> Result<(), DatabaseError> {
        let names: Vec<String> = triggers.iter().map(Trigger::name).collect();
        let sql = Sql::new("INSERT INTO trigger_body (trigger_name, body_sha256)")
            .value(" SELECT name, ", body_sha256)
            .value(" FROM unnest(", names)
            .text("::text[]) AS name ON CONFLICT DO NOTHING");
        self.execute(sql).await?;
        Ok(())
    }

    /// Whether the trigger `name` may come round with a body of this hash.
    pub async fn is_trigger_body(&self, name: &str, body_sha256: &[u8]) -> Result<bool, DatabaseError> {
        let sql = Sql::new("SELECT FROM trigger_body")
            .value(" WHERE trigger_name = ", name)
            .value(" AND body_sha256 = ", body_sha256);
        Ok(self.query_opt(sql).await?.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trigger_names() {
        let trigger = Trigger::parse("presa-in-carico+00ff").unwrap();
        assert_eq!(trigger, Trigger::notice(FactKind::PresaInCarico, "00ff"));
        assert_eq!(trigger.address(), "presa-in-carico+00ff@notices.pec.internal");
        assert_eq!(Trigger::again("00ff").name(), "rispedizione+00ff");
        assert_eq!(Trigger::parse("rispedizione+00ff"), Some(Trigger::again("00ff")));
        assert_eq!(Trigger::parse("altro+00ff"), None);
        assert_eq!(Trigger::parse("accettazione"), None);
    }
}
