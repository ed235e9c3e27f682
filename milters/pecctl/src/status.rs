//! What the exit status of a verb means.
//!
//! Promise: it means the same for all verbs. This is the one place that says what; `pecctl --help` and
//! docs/commands.md repeat it.

use std::process::ExitCode;

/// The exit status. Numbers above are for answers to come that are neither of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// Done. Where something is judged: nothing wrong was found.
    Good = 0,
    /// No: what is judged is wrong, or what was to be done was not done.
    Bad = 1,
    /// The command line is wrong. clap ends so by itself.
    Usage = 2,
    /// What is judged is neither called good nor wrong, since something could not be looked at: the database
    /// is away, a revocation list is missing, a file cannot be read.
    NotKnown = 3,
}

/// The verbs that judge something or look something up, by their path. Where these fail, nothing is known;
/// where another verb fails, it did not do what it was to do.
const JUDGES: [&str; 7] =
    ["check", "directory lookup", "evidence verify", "log", "log audit", "log verify", "verify"];

/// An error that is an answer: what is judged is wrong, what is looked for is not there.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Answer(pub(crate) String);

impl Status {
    /// All of them, with what they mean in a line.
    const ALL: [(Self, &str); 4] = [
        (Self::Good, "done, and nothing wrong was found"),
        (Self::Bad, "something is wrong, the answer is no, or it was not done"),
        (Self::Usage, "the command line is wrong"),
        (Self::NotKnown, "not known: something could not be looked at"),
    ];

    /// The status of a verb that ends with this error.
    pub(crate) fn of_failure(verb: &str, error: &anyhow::Error) -> Self {
        if JUDGES.contains(&verb) && !error.is::<Answer>() { Self::NotKnown } else { Self::Bad }
    }

    /// What is behind the verbs in `pecctl --help`.
    pub(crate) fn help() -> String {
        let lines = Self::ALL.map(|(status, means)| format!("\n  {}  {means}", status as u8));
        format!("Exit status:{}", lines.concat())
    }
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(status as u8)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use clap::{Command, CommandFactory as _};

    use super::*;
    use crate::Arguments;

    /// Every verb that can be called, by its path, and whether it has `--json`.
    fn verbs(command: &Command, path: &str, out: &mut BTreeMap<String, bool>) {
        if !path.is_empty() && !command.is_subcommand_required_set() {
            let has_json = command.get_arguments().any(|argument| argument.get_long() == Some("json"));
            out.insert(path.to_owned(), has_json);
        }
        for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
            verbs(verb, format!("{path} {}", verb.get_name()).trim_start(), out);
        }
    }

    #[test]
    fn docs_commands_has_every_verb_its_json_and_its_exit_status() {
        let page =
            fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/commands.md")).unwrap();
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `pecctl "));
        let written: BTreeMap<String, (bool, String)> = rows
            .map(|row| {
                let cells: Vec<&str> = row.trim_end_matches(" |").split(" | ").collect();
                let [verb, _, json, statuses] = cells[..] else { panic!("{row}") };
                // What is in capitals stands for an argument.
                let words = verb.trim_end_matches('`').split(' ');
                let path: Vec<&str> = words.filter(|word| !word.contains(char::is_uppercase)).collect();
                (path.join(" "), (json != "-", statuses.to_owned()))
            })
            .collect();
        let mut expected = BTreeMap::new();
        let mut command = Arguments::command();
        command.build();
        verbs(&command, "", &mut expected);
        for verb in JUDGES {
            assert!(expected.contains_key(verb), "{verb} is no verb");
        }
        let expected: BTreeMap<String, (bool, String)> = expected
            .into_iter()
            .map(|(verb, json)| {
                let statuses = if JUDGES.contains(&verb.as_str()) { "0, 1, 3" } else { "0, 1" };
                (verb, (json, statuses.to_owned()))
            })
            .collect();
        assert_eq!(written, expected);
        for (status, means) in Status::ALL {
            assert!(page.contains(&format!("- {}: {means}", status as u8)), "{means}");
        }
    }
}
