//! docs/rooms.md is true: who may know whom, and that this crate knows no host.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The rooms of the page, each with those that it may know, sorted.
fn on_the_page() -> BTreeMap<String, Vec<String>> {
    let page = fs::read_to_string(root().join("docs/rooms.md")).unwrap();
    let mut rooms = BTreeMap::new();
    for line in page.lines().skip_while(|line| !line.starts_with("| room |")).skip(2) {
        let Some([_, room, _, may_know, _]) = line.split('|').collect::<Vec<_>>().first_chunk().copied()
        else {
            break;
        };
        rooms.insert(names(room).remove(0), names(may_know));
    }
    rooms
}

/// What stands between backticks, sorted.
fn names(cell: &str) -> Vec<String> {
    let mut names: Vec<String> = cell.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    names.sort();
    names
}

/// The rooms that there are, each with those that its Cargo.toml names, but for its tests.
fn in_the_workspace() -> BTreeMap<String, Vec<String>> {
    let mut rooms = BTreeMap::new();
    for entry in fs::read_dir(root().join("milters")).unwrap() {
        let folder = entry.unwrap().path();
        let Ok(manifest) = fs::read_to_string(folder.join("Cargo.toml")) else { continue };
        let dependencies = manifest.lines().skip_while(|line| *line != "[dependencies]").skip(1);
        let ours = dependencies.take_while(|line| !line.starts_with('[')).filter_map(|line| {
            let name = line.strip_prefix("pec-")?.split(['.', ' ', '=']).next()?;
            Some(name.to_owned())
        });
        let mut ours: Vec<String> = ours.collect();
        ours.sort();
        rooms.insert(folder.file_name().unwrap().to_str().unwrap().to_owned(), ours);
    }
    rooms
}

#[test]
fn who_knows_whom_is_as_the_page_says() {
    assert_eq!(in_the_workspace(), on_the_page(), "left: the Cargo.toml files, right: docs/rooms.md");
}

#[test]
fn core_knows_no_file_no_process_and_no_network() {
    let mut folders = vec![root().join("milters/core/src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let source = fs::read_to_string(&path).unwrap();
            // Tests may.
            let source = source.split("#[cfg(test)]").next().unwrap();
            for outside in ["std::fs", "std::net", "std::process", "std::env", "std::os", "tokio", "tracing"]
            {
                assert!(!source.contains(outside), "{}: {outside}", path.display());
            }
        }
    }
}
