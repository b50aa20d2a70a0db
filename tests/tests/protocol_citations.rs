//! Every step of docs/protocol.md that a comment in the code cites is there, and every step is cited.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// U+00A7; written so that this file cites nothing itself.
const SIGN: char = '\u{a7}';

/// The numbers after each sign in `text`. A line that names an RFC cites that one.
fn citations(text: &str) -> Vec<String> {
    text.lines()
        .filter(|line| !line.contains("RFC "))
        .flat_map(|line| line.split(SIGN).skip(1))
        .map(|rest| {
            let end = rest
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .unwrap_or(rest.len());
            rest[..end].trim_end_matches('.').to_owned()
        })
        // Without a number it speaks of citations as such.
        .filter(|number| !number.is_empty())
        .collect()
}

fn headings(document: &str) -> BTreeSet<String> {
    let titles = document.lines().filter(|line| line.starts_with('#'));
    titles.flat_map(citations).collect()
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            // Build directories and hidden ones hold other people's sources.
            if name != "target" && !name.starts_with('.') {
                sources(&path, found);
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_cited_step_is_in_the_protocol() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let document = std::fs::read_to_string(workspace.join("docs/protocol.md")).unwrap();
    let headings = headings(&document);
    let mut files = Vec::new();
    for member in ["agent", "ctl", "shared", "tests"] {
        sources(&workspace.join(member), &mut files);
    }
    let mut cited = 0;
    let mut unknown = Vec::new();
    for file in files {
        for number in citations(&std::fs::read_to_string(&file).unwrap()) {
            cited += 1;
            if !headings.contains(&number) {
                unknown.push(format!("{}: {SIGN}{number}", file.display()));
            }
        }
    }
    assert!(cited > 10, "only {cited} citations were found");
    assert!(
        unknown.is_empty(),
        "not in docs/protocol.md:\n{}",
        unknown.join("\n")
    );
    // What the document says of itself must hold as well.
    let own = citations(&document);
    let lost: Vec<_> = own.iter().filter(|n| !headings.contains(*n)).collect();
    assert!(
        lost.is_empty(),
        "docs/protocol.md cites what it has not: {lost:?}"
    );
}

/// Steps that no code of ours takes: what people do by hand where nothing of ours is left.
const BY_HAND: [&str; 3] = ["8.1", "8.2", "8.3"];

/// Every numbered step of the document is cited beside the code that takes it, not only in a test.
#[test]
fn every_step_of_the_protocol_is_cited() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let document = std::fs::read_to_string(workspace.join("docs/protocol.md")).unwrap();
    let mut files = Vec::new();
    for member in ["agent/src", "ctl/src", "shared/src"] {
        sources(&workspace.join(member), &mut files);
    }
    let cited: BTreeSet<String> = files
        .iter()
        .flat_map(|file| citations(&std::fs::read_to_string(file).unwrap()))
        .collect();
    let forgotten = uncited(&document, &cited);
    assert!(
        forgotten.is_empty(),
        "no code cites these steps of docs/protocol.md: {forgotten:?}"
    );
}

fn uncited(document: &str, cited: &BTreeSet<String>) -> Vec<String> {
    let steps = headings(document).into_iter();
    let steps = steps.filter(|step| step.contains('.') && !BY_HAND.contains(&step.as_str()));
    steps.filter(|step| !cited.contains(step)).collect()
}

#[test]
fn a_step_that_nobody_cites_is_found() {
    let document = format!("## {SIGN}4 Trust\n\n### {SIGN}4.1 Kept\n\n### {SIGN}4.2 A copy\n");
    let cited = BTreeSet::from(["4.1".to_owned()]);
    assert_eq!(uncited(&document, &cited), ["4.2"]);
}

#[test]
fn citations_are_found() {
    let text =
        format!("//! does it ({SIGN}4.1, {SIGN}6).\n// RFC 9110 {SIGN}13.2\n// {SIGN}n is a step");
    assert_eq!(citations(&text), ["4.1", "6"]);
    let document = format!("## {SIGN}4 Trust\n\nas in {SIGN}9\n\n### {SIGN}4.1 What is kept\n");
    let expected = ["4", "4.1"].map(str::to_owned);
    assert_eq!(headings(&document), BTreeSet::from(expected));
}
