//! What the engine says in its machine-readable log (`-json`): one object a line. Terraform and OpenTofu write the same
//! (<https://developer.hashicorp.com/terraform/internals/machine-readable-ui>); what is not known is passed over.

use serde::Deserialize;

/// One thing that the engine says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// A resource is being worked on.
    Started { address: String, action: String },
    /// It still is, after so many seconds.
    Progress {
        address: String,
        action: String,
        seconds: u64,
    },
    /// It is done.
    Done {
        address: String,
        action: String,
        seconds: u64,
    },
    /// It failed; a diagnostic says why.
    Failed { address: String, action: String },
    /// A mistake or a warning.
    Diagnostic(Diagnostic),
}

/// A mistake or a warning.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Diagnostic {
    pub(super) severity: String,
    pub(super) summary: String,
    #[serde(default)]
    pub(super) detail: String,
    #[serde(default)]
    pub(super) address: Option<String>,
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "type")]
    kind: String,
    hook: Option<Hook>,
    diagnostic: Option<Diagnostic>,
}

#[derive(Deserialize)]
struct Hook {
    resource: Resource,
    #[serde(default)]
    action: String,
    #[serde(default)]
    elapsed_seconds: f64,
}

#[derive(Deserialize)]
struct Resource {
    addr: String,
}

/// Reads one line; none for what is of no interest, or is not of the log.
pub(super) fn read(line: &str) -> Option<Event> {
    let line: Line = serde_json::from_str(line).ok()?;
    if let Some(diagnostic) = line.diagnostic {
        return Some(Event::Diagnostic(diagnostic));
    }
    let hook = line.hook?;
    let (address, action) = (hook.resource.addr, hook.action);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a number of seconds; the cast saturates"
    )]
    let seconds = hook.elapsed_seconds as u64;
    match line.kind.as_str() {
        "apply_start" => Some(Event::Started { address, action }),
        "apply_progress" => Some(Event::Progress {
            address,
            action,
            seconds,
        }),
        "apply_complete" => Some(Event::Done {
            address,
            action,
            seconds,
        }),
        "apply_errored" => Some(Event::Failed { address, action }),
        _ => None,
    }
}

// === impl Diagnostic ===

impl Diagnostic {
    pub(super) fn is_error(&self) -> bool {
        self.severity == "error"
    }

    /// In one paragraph: what, on which resource, and the engine's own words.
    pub(super) fn text(&self) -> String {
        let place = self
            .address
            .as_ref()
            .map(|a| format!("{a}: "))
            .unwrap_or_default();
        let detail = self.detail.trim();
        match detail.is_empty() {
            true => format!("{place}{}", self.summary),
            false => format!(
                "{place}{}: {}",
                self.summary,
                detail.replace('\n', "\n    ")
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_log() {
        let start = r#"{"@level":"info","type":"apply_start","hook":{"resource":{"addr":"aws_vpc.this"},"action":"create"}}"#;
        assert_eq!(
            read(start),
            Some(Event::Started {
                address: "aws_vpc.this".into(),
                action: "create".into()
            })
        );
        let done = r#"{"type":"apply_complete","hook":{"resource":{"addr":"aws_vpc.this"},"action":"create","id_key":"id","elapsed_seconds":12}}"#;
        assert!(matches!(read(done), Some(Event::Done { seconds: 12, .. })));
        let wrong = r#"{"type":"diagnostic","diagnostic":{"severity":"error","summary":"S","detail":"a\nb","address":"x.y"}}"#;
        let Some(Event::Diagnostic(wrong)) = read(wrong) else {
            panic!("a diagnostic")
        };
        assert!(wrong.is_error());
        assert_eq!(wrong.text(), "x.y: S: a\n    b");
        assert_eq!(read("╷"), None);
        assert_eq!(read(r#"{"type":"outputs","outputs":{}}"#), None);
    }
}
