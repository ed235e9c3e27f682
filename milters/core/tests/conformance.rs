//! docs/conformance.md and the sources agree: every test that it names exists, every file, every name in a
//! file; every test of RFC 6109 is named there, and every row that is tested names one that says so in its
//! name; every section of the RFC that demands something has a row.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const DOCUMENT: &str = "docs/conformance.md";

/// The sections of RFC 6109, 2 to 5, in which MUST, SHALL, REQUIRED or SHOULD stands, and those that demand
/// without these words.
const SECTIONS: [&str; 57] = [
    "2.1",
    "2.1.1",
    "2.1.1.1.1",
    "2.1.1.1.2",
    "2.1.1.1.3",
    "2.1.1.2",
    "2.2.1",
    "2.2.2",
    "2.2.3",
    "2.2.4",
    "2.2.5",
    "2.2.6",
    "2.3",
    "3.1",
    "3.1.1",
    "3.1.2",
    "3.1.3",
    "3.1.4",
    "3.1.5",
    "3.1.6",
    "3.2.1",
    "3.2.2",
    "3.2.3",
    "3.2.4",
    "3.3.1",
    "3.3.2",
    "3.3.2.1",
    "3.3.2.2",
    "3.3.2.3",
    "3.3.3",
    "3.4",
    "3.5",
    "4.1",
    "4.2",
    "4.3",
    "4.3.1",
    "4.3.2",
    "4.3.3",
    "4.4",
    "4.5",
    "4.5.1",
    "4.5.2",
    "4.5.3",
    "4.5.4",
    "4.5.5",
    "4.5.6",
    "4.5.7",
    "4.5.8",
    "4.5.9",
    "4.5.10",
    "5.1",
    "5.2",
    "5.3",
    "5.4",
    "5.5.1",
    "5.5.2",
    "5.6",
];

/// What a row without a test says instead.
const WITHOUT_TEST: [&str; 4] = ["not yet", "not tested", "the provider's own duty", "nothing to do"];

/// One requirement: a row of a table.
struct Row {
    line: usize,
    section: String,
    requirement: String,
    by: String,
    tests: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The rows of all tables.
fn rows(document: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    for (number, line) in document.lines().enumerate() {
        let Some(inside) = line.strip_prefix('|').and_then(|l| l.trim_end().strip_suffix('|')) else {
            continue;
        };
        let cells: Vec<_> = inside.split('|').map(|cell| cell.trim().to_owned()).collect();
        if cells[0] == "section" || cells[0].starts_with("---") {
            continue;
        }
        let [section, requirement, by, tests] = &cells[..] else {
            panic!("{DOCUMENT} line {}: {} columns, 4 are needed", number + 1, cells.len())
        };
        rows.push(Row {
            line: number + 1,
            section: section.clone(),
            requirement: requirement.clone(),
            by: by.clone(),
            tests: tests.clone(),
        });
    }
    rows
}

/// What stands in backticks.
fn code(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// The files below `directory` with this extension, without what is built.
fn files(directory: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().is_none_or(|name| name != "target") {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
}

/// The name of the function that this line begins, after one of these words.
fn function<'l>(line: &'l str, words: &[&str]) -> Option<&'l str> {
    let rest = words.iter().find_map(|word| line.strip_prefix(word))?;
    rest.split('(').next()
}

/// The names of all tests: functions with a test attribute in Rust, `def test_...` at the margin in the
/// scenarios.
fn tests() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut sources = Vec::new();
    for directory in ["milters", "tests"] {
        files(&root().join(directory), "rs", &mut sources);
    }
    for source in sources {
        let mut is_test = false;
        for line in fs::read_to_string(source).unwrap().lines().map(str::trim) {
            if line.starts_with("#[") {
                is_test |= line == "#[test]" || line.starts_with("#[tokio::test");
                continue;
            }
            if is_test {
                found.extend(function(line, &["fn ", "async fn "]).map(str::to_owned));
            }
            is_test = false;
        }
    }
    let mut scenarios = Vec::new();
    files(&root().join("tests/scenarios"), "py", &mut scenarios);
    for scenario in scenarios {
        let text = fs::read_to_string(scenario).unwrap();
        found.extend(
            text.lines()
                .filter_map(|line| function(line, &["def "]))
                .filter(|name| name.starts_with("test_"))
                .map(str::to_owned),
        );
    }
    found
}

/// Whether the name says that the test is of the RFC.
fn is_of_the_rfc(name: &str) -> bool {
    name.strip_prefix("test_").unwrap_or(name).starts_with("rfc6109_")
}

/// Every wrong thing in one message, each on a line.
#[track_caller]
fn nothing_wrong(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn document() -> String {
    fs::read_to_string(root().join(DOCUMENT)).unwrap()
}

fn at(row: &Row, what: &str) -> String {
    let beginning: String = row.requirement.chars().take(50).collect();
    format!("{DOCUMENT} line {}, {} ({beginning}...): {what}", row.line, row.section)
}

#[test]
fn every_test_that_is_named_exists() {
    let (document, tests) = (document(), tests());
    let mut wrong = Vec::new();
    for row in rows(&document) {
        let named = code(&row.tests);
        wrong.extend(
            named
                .iter()
                .filter(|name| !tests.contains(**name))
                .map(|name| at(&row, &format!("there is no test {name}"))),
        );
        if named.is_empty()
            && !WITHOUT_TEST.iter().any(|words| row.by.contains(words) || row.tests.contains(words))
        {
            wrong.push(at(&row, &format!("names no test and does not say why: {}", WITHOUT_TEST.join(", "))));
        }
    }
    nothing_wrong(&wrong);
}

#[test]
fn every_file_that_is_named_exists_and_holds_what_is_named_after_it() {
    let document = document();
    let mut wrong = Vec::new();
    for row in rows(&document) {
        let mut last: Option<(&str, String)> = None;
        for name in code(&row.by) {
            if name.contains('/') {
                match fs::metadata(root().join(name)) {
                    Ok(found) if found.is_dir() => last = None,
                    Ok(_) => last = Some((name, fs::read_to_string(root().join(name)).unwrap())),
                    Err(_) => {
                        wrong.push(at(&row, &format!("there is no file {name}")));
                        last = None;
                    }
                }
                continue;
            }
            match &last {
                Some((_, text)) if text.contains(name) => {}
                Some((file, _)) => wrong.push(at(&row, &format!("{file} does not hold {name}"))),
                None => wrong.push(at(&row, &format!("{name} stands after no file"))),
            }
        }
    }
    nothing_wrong(&wrong);
}

#[test]
fn every_test_of_the_rfc_is_in_the_document() {
    let document = document();
    let named: BTreeSet<_> = rows(&document)
        .iter()
        .flat_map(|row| code(&row.tests).into_iter().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let forgotten: Vec<_> =
        tests().into_iter().filter(|name| is_of_the_rfc(name) && !named.contains(name)).collect();
    nothing_wrong(
        &forgotten.iter().map(|name| format!("{DOCUMENT}: no row names the test {name}")).collect::<Vec<_>>(),
    );
}

#[test]
fn every_row_that_is_tested_names_a_test_of_the_rfc() {
    let mut wrong = Vec::new();
    for row in rows(&document()) {
        let named = code(&row.tests);
        // What AgID demands beyond the RFC is in none of its sections.
        let is_agids = |name: &&str| {
            row.requirement.contains("AgID")
                && name.strip_prefix("test_").unwrap_or(name).starts_with("agid_")
        };
        if !named.is_empty() && !named.iter().any(|name| is_of_the_rfc(name) || is_agids(name)) {
            wrong.push(at(&row, "names no test that has a section of the RFC in its name (rfc6109_...)"));
        }
    }
    nothing_wrong(&wrong);
}

#[test]
fn every_section_that_demands_something_has_a_row_in_the_order_of_the_rfc() {
    let document = document();
    let rows = rows(&document);
    let mut wrong: Vec<_> = SECTIONS
        .iter()
        .filter(|s| !rows.iter().any(|row| row.section == **s))
        .map(|s| format!("{DOCUMENT}: no row for {s}"))
        .collect();
    let numbers =
        |row: &Row| row.section.split('.').map(|n| n.parse::<u32>().unwrap_or_default()).collect::<Vec<_>>();
    wrong.extend(
        rows.windows(2)
            .filter(|two| numbers(&two[0]) > numbers(&two[1]))
            .map(|two| at(&two[1], &format!("stands after {}", two[0].section))),
    );
    nothing_wrong(&wrong);
}
