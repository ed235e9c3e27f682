//! Mailboxes: whether one exists, and when it saved a message. Asked of Dovecot through doveadm's HTTP API.
//!
//! Postfix's report proves that the message was delivered, not when: it may be written hours later. `date.received` is the
//! second of delivery and stays when the user moves the message.

use std::time::Duration;

use pec_core::clock::Moment;
use serde_json::{Value, json};

use crate::MARK_FIELD;

/// How long Dovecot may take before the report waits instead.
const PATIENCE: Duration = Duration::from_secs(30);

/// Seconds.
const A_DAY: i64 = 86_400;

/// doveadm's exit code for a user that does not exist (`EX_NOUSER`).
const NO_USER: i64 = 67;

/// The mailbox cannot be asked. Temporary: the report waits.
#[derive(Debug, thiserror::Error)]
pub enum MailboxError {
    /// Nobody answers, or not in time.
    #[error("doveadm at {url} does not answer: {trouble}")]
    Unreachable {
        /// `pec_doveadm_url`.
        url: String,
        /// Why.
        trouble: String,
    },
    /// An answer that says neither yes nor no.
    #[error("doveadm at {url} answers {answer}")]
    Refused {
        /// `pec_doveadm_url`.
        url: String,
        /// What it says.
        answer: String,
    },
    /// The program ends.
    #[error("doveadm's answer cannot be waited for: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// All mailboxes of the provider.
pub struct Mailboxes {
    agent: ureq::Agent,
    url: String,
    authorization: String,
}

impl Mailboxes {
    /// Those that doveadm at `url` (`pec_doveadm_url`) answers for, with its key.
    pub fn new(url: &str, key: &str) -> Self {
        let agent = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).http_status_as_error(false).build().new_agent();
        Self { agent, url: url.to_owned(), authorization: format!("X-Dovecot-API {}", encodify::base64::STANDARD.encode(key)) }
    }

    /// The moments, from `since` on and perhaps some before, at which the mailbox of `user` received copies of the message with
    /// this mark, in no order. The mark is what pec-incoming wrote into it; no other message can have it. None: it has none any
    /// more, or there is no such mailbox.
    pub async fn received(&self, user: &str, mark: &str, since: Moment) -> Result<Vec<Moment>, MailboxError> {
        // The headers of all that is younger are read, of a large mailbox not of all. Dovecot may count in days, and in any zone.
        let since = (since.unix() - A_DAY).to_string();
        Ok(self.fetch(user, &["mailbox", "*", "SINCE", &since, "HEADER", MARK_FIELD, mark]).await?.unwrap_or_default())
    }

    /// Whether `user` has a mailbox.
    pub async fn exists(&self, user: &str) -> Result<bool, MailboxError> {
        // A message that no mailbox has: what matters is whether there is one to ask.
        Ok(self.fetch(user, &["mailbox", "INBOX", "UID", "4294967295"]).await?.is_some())
    }

    /// When the messages that `query` finds were received. `None`: there is no such mailbox.
    async fn fetch(&self, user: &str, query: &[&str]) -> Result<Option<Vec<Moment>>, MailboxError> {
        let command = json!([["fetch", {"user": user, "field": ["date.received.unixtime"], "query": query}, "1"]]);
        let (agent, url, authorization) = (self.agent.clone(), self.url.clone(), self.authorization.clone());
        let (status, answer) = tokio::task::spawn_blocking(move || {
            let unreachable = |e: ureq::Error| MailboxError::Unreachable { url: url.clone(), trouble: e.to_string() };
            let mut response = agent.post(&url).header("Authorization", &authorization).send_json(&command).map_err(unreachable)?;
            let text = response.body_mut().read_to_string().map_err(unreachable)?;
            Ok::<_, MailboxError>((response.status().as_u16(), text))
        })
        .await??;
        moments(&answer)
            .filter(|_| status == 200)
            .ok_or_else(|| MailboxError::Refused { url: self.url.clone(), answer: format!("{status} {}", answer.trim()) })
    }
}

/// Reads doveadm's answer: `Some(None)` if there is no such mailbox. `None`: an error, or something else.
fn moments(answer: &str) -> Option<Option<Vec<Moment>>> {
    let answer: Value = serde_json::from_str(answer).ok()?;
    let [kind, content, _] = &answer.as_array()?.first()?.as_array()?[..] else { return None };
    match kind.as_str()? {
        "doveadmResponse" => {
            let moment = |row: &Value| Some(Moment::from_unix(row.get("date.received.unixtime")?.as_str()?.parse().ok()?));
            content.as_array()?.iter().map(moment).collect::<Option<Vec<_>>>().map(Some)
        }
        "error" if content.get("exitCode").and_then(Value::as_i64) == Some(NO_USER) => Some(None),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doveadm_answers() {
        assert_eq!(
            moments(r#"[["doveadmResponse",[{"date.received.unixtime":"1542123567"},{"date.received.unixtime":"1542123999"}],"1"]]"#)
                .map(|m| m.map(|m| m.len())),
            Some(Some(2))
        );
        assert_eq!(moments(r#"[["doveadmResponse",[],"1"]]"#), Some(Some(vec![])));
        assert_eq!(moments(r#"[["error",{"type":"exitCode","exitCode":67},"1"]]"#), Some(None));
        assert_eq!(moments(r#"[["error",{"type":"exitCode","exitCode":75},"1"]]"#), None);
        for nonsense in ["", "[]", "{}", "[[]]", r#"[["doveadmResponse",[{}],"1"]]"#] {
            assert_eq!(moments(nonsense), None, "{nonsense}");
        }
    }
}
