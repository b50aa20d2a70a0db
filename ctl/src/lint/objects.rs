//! The addons' API objects, as the API server would decode them.

use std::collections::BTreeMap;

use super::{Document, Finding};
use crate::render::{Text, documents};

/// Checks every object of every file.
pub(super) fn check(files: &BTreeMap<String, Text>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for text in files.values() {
        for part in documents(&text.text) {
            let mut document = Document::new(&text.file, part.lines_before, part.text);
            document.read(part.text);
            findings.append(&mut document.findings);
        }
    }
    findings
}
