//! Addons: API objects that a group's pod `addons` applies.

use serde_json::{Value, json};
use shared::check::yaml::{YamlProblem, parse_document};

/// The pod that applies them: a group whose templates have it carries them.
pub const ADDONS_POD: &str = "addons";

/// The secret directory that holds them, one file a template and the keyring's own. It is not the pod's own directory,
/// so that what applies them need not see the credentials that only the pod's first step may use.
pub const ADDONS_OBJECTS: &str = "addons_objects";

/// One document of a text that may hold several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document<'a> {
    /// Its text.
    pub text: &'a str,
    /// How many lines of the whole stand before it.
    pub lines_before: usize,
}

/// The documents of a text, which are apart where a line is `---`; those without content are left out.
pub fn documents(text: &str) -> Vec<Document<'_>> {
    let mut found = Vec::new();
    let (mut start, mut lines_before) = (0, 0);
    let mut at = 0;
    let mut line_count = 0;
    for line in text.split_inclusive('\n') {
        at += line.len();
        line_count += 1;
        if line.trim_end() == "---" {
            found.push((start, at - line.len(), lines_before));
            (start, lines_before) = (at, line_count);
        }
    }
    found.push((start, text.len(), lines_before));
    found
        .into_iter()
        .filter_map(|(from, to, lines_before)| {
            let text = text.get(from..to)?;
            has_content(text).then_some(Document { text, lines_before })
        })
        .collect()
}

fn has_content(text: &str) -> bool {
    text.lines()
        .map(str::trim_start)
        .any(|line| !line.is_empty() && !line.starts_with('#'))
}

/// All objects of a file as one `List`, which `kubectl` takes apart again.
///
/// # Errors
/// What is wrong with each document; lines count from the start of the whole.
pub fn list_of(text: &str) -> Result<Value, Vec<YamlProblem>> {
    let mut items = Vec::new();
    let mut problems = Vec::new();
    for document in documents(text) {
        match parse_document(document.text.as_bytes()) {
            Ok(object) => items.push(object),
            Err(found) => problems.extend(found.into_iter().map(|problem| YamlProblem {
                line: problem.line.map(|line| line + document.lines_before),
                ..problem
            })),
        }
    }
    if problems.is_empty() {
        Ok(json!({"apiVersion": "v1", "kind": "List", "items": items}))
    } else {
        Err(problems)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_split_at_separators_and_know_their_lines() {
        let text = "# first\na: 1\n---\n# nothing\n---\nb: |\n  ---\n  x\n--- \nc: 3";
        let found: Vec<_> = documents(text)
            .into_iter()
            .map(|d| (d.lines_before, d.text))
            .collect();
        assert_eq!(
            found,
            [
                (0, "# first\na: 1\n"),
                (5, "b: |\n  ---\n  x\n"),
                (9, "c: 3")
            ]
        );
        assert!(documents("").is_empty());
    }

    #[test]
    fn a_mistake_has_the_line_of_the_whole_file() {
        let problems = list_of("a: 1\n---\nb: [\n---\nc: !x y\n").unwrap_err();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert_eq!(problems[0].line, Some(4));
        assert_eq!(problems[1].path.as_deref(), Some("c"));
    }
}
