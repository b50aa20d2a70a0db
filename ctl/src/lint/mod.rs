//! Offline checks of a group's manifests and secrets: all that is wrong, before anything is signed.
//!
//! The rules of kubelet and of certificates are `shared::check`, the same code that the agent runs before its first
//! write. What only a person can mend is added here: `scan` and `scalars` look at the text as it was written, `flags`
//! at command lines, `fields` at configuration files, `objects` at the addons, `secret_paths` at what pods mount.

mod etcd_config;
mod fields;
mod flags;
mod objects;
mod scalars;
mod scan;
mod secret_paths;

use std::collections::BTreeMap;
use std::fmt;

use jiff::{SignedDuration, Timestamp};
use shared::check::certificate::check_pem_files;
use shared::check::manifest::{PodSummary, check_manifest};
use shared::check::set::check_set;
use shared::check::yaml::parse_document;

use crate::render::{RenderInput, Secrets, Texts, canonical, is_yaml, render_texts};
use scan::{Scan, Style, scan};
use secret_paths::SecretPaths;
use serde_json::Value;

/// A certificate that lives no longer than this is worth a warning.
const EXPIRY_WARNING: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Characters that end a line in YAML 1.1 and not in 1.2.
const OTHER_LINE_ENDS: [char; 3] = ['\u{85}', '\u{2028}', '\u{2029}'];

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing is published with it.
    Error,
    /// Worth a look.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One thing that lint found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// A template (`secure/etcd.yaml.j2`), what it renders to (`secure/etcd.yaml`), or a secret
    /// (`secrets/secure/etcd/ca.crt`).
    pub file: String,
    /// Line in that file, from 1.
    pub line: Option<usize>,
    /// Path of the field, such as `spec.containers[0].image`.
    pub path: Option<String>,
    /// What is wrong; never a secret's content.
    pub message: String,
    /// What to do about it, where that can be said.
    pub help: Option<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.severity, self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(path) = &self.path {
            write!(f, ": {path}")?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

impl Finding {
    /// One about a field; the file and line are filled in by who knows the manifest.
    fn in_field(severity: Severity, path: &str, message: String, help: Option<String>) -> Self {
        Self {
            severity,
            file: String::new(),
            line: None,
            path: Some(path.to_owned()),
            message,
            help,
        }
    }
}

/// Everything that is wrong with one group, by file and line; empty when nothing is.
///
/// `now` is the time at which certificates must be valid.
pub fn lint(input: &RenderInput, now: Timestamp) -> Vec<Finding> {
    let (texts, failures) = render_texts(input);
    let mut findings: Vec<Finding> = failures
        .into_iter()
        .map(|failure| Finding {
            severity: Severity::Error,
            file: failure.file,
            line: failure.line,
            path: failure.path,
            message: failure.message,
            help: failure.help,
        })
        .collect();
    let mut pods = Vec::new();
    let mut secrets = SecretPaths::new(&input.group, input.stand_ins, &texts);
    let mut all_pods_are_known = findings.is_empty();
    for (name, text) in &texts.pods {
        let mut document = Document::new(&text.file, 0, &text.text);
        let pod = document
            .read(&text.text)
            .and_then(|value| document.check_pod(name, &value, &mut secrets));
        match pod {
            Some(pod) => pods.push((name.clone(), pod)),
            None => all_pods_are_known = false,
        }
        findings.append(&mut document.findings);
    }
    let files = texts.files.iter().map(|((dir, name), text)| {
        let place = format!("secrets/{dir}/{name}");
        (Some(place), name, text)
    });
    let host = texts.host.iter().map(|(name, text)| (None, name, text));
    for (place, name, text) in files.chain(host) {
        if is_yaml(name) {
            let mut document = Document::new(&text.file, 0, &text.text);
            if let Some(value) = document.read(&text.text) {
                document.add(fields::check(&value));
                let base = texts.node.etcd.as_ref().map(|etcd| etcd.base.as_str());
                if place.is_some_and(|place| Some(place.as_str()) == base) {
                    document.add(etcd_config::check(&value));
                }
            }
            findings.append(&mut document.findings);
        }
    }
    findings.extend(check_secret_configuration(&input.group, &texts));
    findings.extend(objects::check(&texts));
    findings.extend(texts.replaced.iter().map(|(dir, name)| Finding {
        severity: Severity::Warning,
        file: format!("secrets/{}/{dir}/{name}", input.group),
        line: None,
        path: None,
        message: "takes the place of the file that a template makes".to_owned(),
        help: Some(
            "change the template instead: what is no secret can be reviewed there".to_owned(),
        ),
    }));
    findings.extend(check_set(&pods).into_iter().map(|problem| Finding {
        severity: Severity::Error,
        file: format!(
            "{}/{}",
            input.group,
            problem.files().last().copied().unwrap_or_default()
        ),
        line: None,
        path: None,
        message: problem.to_string(),
        help: None,
    }));
    // With a template or a pod missing, what it mounts is not known.
    if all_pods_are_known {
        findings.extend(secrets.check_unused());
    }
    findings.extend(check_secrets(&input.group, &texts.secrets, now));
    findings.sort_by(|a, b| {
        (&a.file, a.line, &a.path, &a.message).cmp(&(&b.file, b.line, &b.path, &b.message))
    });
    findings
}

/// One rendered YAML document and what was found in it so far.
struct Document {
    file: String,
    /// Lines of the file that stand before it.
    lines_before: usize,
    scan: Scan,
    findings: Vec<Finding>,
}

impl Document {
    fn new(file: &str, lines_before: usize, text: &str) -> Self {
        Self {
            file: file.to_owned(),
            lines_before,
            scan: scan(text),
            findings: Vec::new(),
        }
    }

    fn error(
        &mut self,
        line: Option<usize>,
        path: Option<String>,
        message: String,
        help: Option<String>,
    ) {
        let line = line.or_else(|| path.as_deref().and_then(|path| self.scan.line_of(path)));
        self.findings.push(Finding {
            severity: Severity::Error,
            file: self.file.clone(),
            line: line.map(|line| line + self.lines_before),
            path,
            message,
            help,
        });
    }

    /// Takes findings that name only a field of this document.
    fn add(&mut self, findings: Vec<Finding>) {
        for finding in findings {
            let line = finding
                .path
                .as_deref()
                .and_then(|path| self.scan.line_of(path));
            self.findings.push(Finding {
                file: self.file.clone(),
                line: line.map(|line| line + self.lines_before),
                ..finding
            });
        }
    }

    /// The line of the file on which the object's name stands.
    fn line_of_name(&self) -> usize {
        self.lines_before + self.scan.line_of("metadata.name").unwrap_or(1)
    }

    /// What can be seen only before the text is parsed.
    fn check_text(&mut self, text: &str) {
        for duplicate in self.scan.duplicates.clone() {
            let message = format!("the key is already on line {}", duplicate.first_line);
            self.error(Some(duplicate.line), Some(duplicate.path), message, None);
        }
        for scalar in self.scan.scalars.clone() {
            if scalar.style == Style::Plain
                && !scalar.tagged
                && let Some(why) = scalars::ambiguity(&scalar.text)
            {
                let message = format!("unquoted `{}` is {why}", scalar.text);
                let help = Some(format!(
                    "write \"{}\" if it is a string, else the plain form",
                    scalar.text
                ));
                self.error(Some(scalar.line), Some(scalar.path), message, help);
            }
        }
        for (index, line) in text.lines().enumerate() {
            if line.contains(OTHER_LINE_ENDS) {
                let message =
                    "holds a character that ends a line in YAML 1.1 and not in 1.2".to_owned();
                self.error(
                    Some(index + 1),
                    None,
                    message,
                    Some("escape it in double quotes".to_owned()),
                );
            }
        }
    }

    /// The document as it will be read; `None` when nothing can read it.
    fn read(&mut self, text: &str) -> Option<Value> {
        self.check_text(text);
        match parse_document(text.as_bytes()).and_then(|value| canonical(&value).map(|_| value)) {
            Ok(value) => Some(value),
            Err(problems) => {
                let already_told = !self.scan.duplicates.is_empty();
                for problem in problems {
                    // The parser stops at the first duplicate; all of them are reported above.
                    if !(already_told && problem.message.contains("duplicate entry")) {
                        self.error(problem.line, problem.path, problem.message, None);
                    }
                }
                None
            }
        }
    }

    /// What kubelet and the binaries would say; the summary when kubelet takes it.
    fn check_pod(
        &mut self,
        name: &str,
        value: &Value,
        secrets: &mut SecretPaths<'_>,
    ) -> Option<PodSummary> {
        self.add(flags::check(value));
        self.add(secrets.check_flag_files(value));
        let bytes = canonical(value).ok()?;
        match check_manifest(name, &bytes) {
            Ok(pod) => {
                self.add(secrets.check_mounts(&pod));
                Some(pod)
            }
            Err(problems) => {
                // Lines in the canonical bytes say nothing to the person who wrote the template.
                for problem in problems {
                    self.error(None, problem.path, problem.message, None);
                }
                None
            }
        }
    }
}

/// Configuration files that are secret, or an operator's own: their fields, and never what is in one.
fn check_secret_configuration(group: &str, texts: &Texts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (dir, files) in &texts.secrets {
        for (name, file) in files.iter().filter(|(name, _)| is_yaml(name)) {
            let place = (dir.clone(), name.clone());
            let is_rendered = texts.files.contains_key(&place) && !texts.replaced.contains(&place);
            // What a parser says of a file may quote it.
            let Ok(value) = parse_document(file.bytes.expose()) else {
                continue;
            };
            if !is_rendered {
                findings.extend(fields::check(&value).into_iter().map(|finding| Finding {
                    file: format!("secrets/{group}/{dir}/{name}"),
                    ..finding
                }));
            }
        }
    }
    findings
}

fn check_secrets(group: &str, secrets: &Secrets, now: Timestamp) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (pod, files) in secrets {
        let dir = format!("secrets/{group}/{pod}");
        let bytes: BTreeMap<String, &[u8]> = files
            .iter()
            .map(|(name, file)| (name.clone(), file.bytes.expose()))
            .collect();
        let report = check_pem_files(&dir, &bytes, now);
        let is_valid_now = report.problems.is_empty();
        findings.extend(report.problems.into_iter().map(|problem| Finding {
            severity: Severity::Error,
            file: format!("{dir}/{}", problem.file),
            line: None,
            path: None,
            message: problem.kind.to_string(),
            help: None,
        }));
        if let Some(expiry) = report
            .earliest_expiry
            .filter(|at| is_valid_now && at.duration_since(now) < EXPIRY_WARNING)
        {
            findings.push(Finding {
                severity: Severity::Warning,
                file: dir,
                line: None,
                path: None,
                message: format!("a certificate expires soon, at {expiry}"),
                help: None,
            });
        }
    }
    findings
}

#[cfg(test)]
mod tests;
