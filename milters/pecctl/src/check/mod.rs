//! `pecctl check`: does what surrounds the milters keep the promises of PEC?
//!
//! First everything is looked at ([`look`]), then it is judged ([`judge`]), then the findings are printed.
//!
//! Promise: those who look know nobody who judges, and those who judge ask nobody: no file imports another in
//! a circle. A new check is a field of [`Seen`], where it needs one, and a function in [`judge::TABLE`].

mod finding;
mod judge;
mod look;
#[cfg(test)]
mod sample;

use std::path::Path;

use anyhow::Context as _;
use pec_core::clock::{Clock as _, SystemClock};

use crate::check::finding::{Finding, Level};
use crate::check::judge::TABLE;
use crate::check::look::Seen;
use crate::status::Status;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// One JSON object a finding.
    #[arg(long)]
    json: bool,

    /// Print the names of all checks, and what each looks at.
    #[arg(long, conflicts_with = "json")]
    list: bool,
}

pub(crate) fn run(config_directory: &Path, arguments: &Arguments) -> anyhow::Result<Status> {
    if arguments.list {
        TABLE.iter().for_each(|check| println!("{:<12}{}", check.name, check.looks_at));
        return Ok(Status::Good);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting")?;
    let seen = runtime.block_on(Seen::look(config_directory, SystemClock.now()))?;
    let findings = judge::judge(&seen);
    print(&findings, arguments.json);
    Ok(status(&findings))
}

fn print(findings: &[(&str, Finding)], json: bool) {
    for (check, finding) in findings {
        if json {
            println!("{}", finding.json(check));
        } else {
            println!("{finding}");
        }
    }
    if findings.is_empty() && !json {
        println!("nothing found: {} checks", TABLE.len());
    }
}

/// What is wrong goes before what could not be looked at.
fn status(findings: &[(&str, Finding)]) -> Status {
    let has = |level| findings.iter().any(|(_, f)| f.level == level);
    match () {
        () if has(Level::Wrong) => Status::Bad,
        () if has(Level::NotSeen) => Status::NotKnown,
        () => Status::Good,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::fs;

    use super::*;

    #[test]
    fn the_exit_status_never_calls_good_what_was_not_seen() {
        let (wrong, unseen) = (Finding::wrong("a", "b", "c", ""), Finding::not_seen("a", "b", ""));
        assert_eq!(status(&[]), Status::Good);
        assert_eq!(status(&[("x", unseen.clone())]), Status::NotKnown);
        assert_eq!(status(&[("x", unseen), ("y", wrong)]), Status::Bad);
    }

    /// The source files below this directory: module path, such as `look::dns`, and text without its tests.
    fn sources(directory: &Path, module: &str, out: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let stem = path.file_stem().unwrap().to_str().unwrap();
            let name = match (module, stem) {
                (_, "mod") => module.to_owned(),
                ("", _) => stem.to_owned(),
                _ => format!("{module}::{stem}"),
            };
            if path.is_dir() {
                sources(&path, &name, out);
            } else if stem != "sample" {
                let text = fs::read_to_string(&path).unwrap();
                out.insert(name, text.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned());
            }
        }
    }

    /// The files that a file names: by `crate::check::`, or as its modules.
    fn imports(module: &str, text: &str, files: &BTreeMap<String, String>) -> BTreeSet<String> {
        assert!(!text.contains("super::"), "{module}: here every import begins with crate::check::");
        let mut names = Vec::new();
        for named in text.split("crate::check::").skip(1) {
            let end =
                named.find(|c: char| !(c.is_alphanumeric() || "_:{} ,\n".contains(c))).unwrap_or(named.len());
            let (path, items) = named[..end].split_once('{').unwrap_or((&named[..end], ""));
            names.extend(items.trim_end_matches('}').split(',').map(|item| format!("{path}{}", item.trim())));
        }
        for line in text.lines().filter_map(|line| line.strip_suffix(';')) {
            let child = line.strip_prefix("mod ").or_else(|| line.strip_prefix("pub(crate) mod "));
            names.extend(child.map(|child| format!("{module}::{child}").trim_start_matches("::").to_owned()));
        }
        // `look::postfix::Postfix` is of the file `look::postfix`.
        let file_of = |mut name: &str| loop {
            if files.contains_key(name) {
                return Some(name.to_owned());
            }
            name = name.rsplit_once("::")?.0;
        };
        names.iter().filter_map(|name| file_of(name)).filter(|file| file != module).collect()
    }

    #[test]
    fn who_looks_knows_no_judge_and_nobody_imports_in_a_circle() {
        let mut files = BTreeMap::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/check"), "", &mut files);
        let mut graph: BTreeMap<&str, BTreeSet<String>> =
            files.iter().map(|(name, text)| (name.as_str(), imports(name, text, &files))).collect();
        assert!(graph["judge::mailboxes"].contains("judge::sockets"), "imports are found: {graph:?}");
        for (name, imported) in graph.iter().filter(|(name, _)| name.starts_with("look")) {
            assert!(imported.iter().all(|other| other.starts_with("look")), "{name} imports {imported:?}");
        }
        // Who imports nobody that is left is in no circle.
        while let Some(free) = graph
            .iter()
            .find(|(_, imported)| imported.iter().all(|other| !graph.contains_key(other.as_str())))
            .map(|(name, _)| *name)
        {
            graph.remove(free);
        }
        assert!(graph.is_empty(), "a circle: {graph:?}");
    }
}
