//! The lines of a report, and how they are shown.

use serde::Serialize;

use crate::aws::AwsError;

/// What a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, but is worth a look.
    Warn,
    /// The environment cannot be made, or not be relied on.
    Fail,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What was checked.
    pub check: &'static str,
    /// What it came to.
    pub verdict: Verdict,
    /// What was seen.
    pub says: String,
    /// What to do, where something is to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
    /// Whether something that runs out soon is the reason.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub expires: bool,
}

/// Every line of one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The environment.
    pub environment: String,
    /// The lines, in a fixed order.
    pub lines: Vec<Line>,
}

// === impl Line ===

impl Line {
    pub(super) fn ok(check: &'static str, says: impl Into<String>) -> Self {
        Self {
            check,
            verdict: Verdict::Ok,
            says: says.into(),
            fix: None,
            expires: false,
        }
    }

    pub(super) fn warn(
        check: &'static str,
        says: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            verdict: Verdict::Warn,
            fix: Some(fix.into()),
            ..Self::ok(check, says)
        }
    }

    pub(super) fn fail(
        check: &'static str,
        says: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            verdict: Verdict::Fail,
            ..Self::warn(check, says, fix)
        }
    }

    /// A check that could not look: what it would have found is unknown, so it fails.
    pub(super) fn unseen(check: &'static str, error: &AwsError) -> Self {
        let says = format!(
            "{} on {} failed: {} ({})",
            error.action,
            error.object,
            error.kind,
            error.answer()
        );
        Self::fail(check, says, error.advice())
    }

    /// The same line as a warning.
    pub(super) fn mildly(self) -> Self {
        Self {
            verdict: Verdict::Warn,
            ..self
        }
    }
}

// === impl Report ===

impl Report {
    /// The lines that fail.
    pub fn failures(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|l| l.verdict == Verdict::Fail)
    }

    /// Whether a line fails.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failures().next().is_some()
    }

    /// Whether a line fails, or something runs out soon: exit code 3.
    #[must_use]
    pub fn differs(&self) -> bool {
        self.has_failed() || self.lines.iter().any(|l| l.expires)
    }

    /// The report for people: a line a check, with its fix below.
    #[must_use]
    pub fn text(&self) -> String {
        let width = self.lines.iter().map(|l| l.check.len()).max().unwrap_or(0);
        let mut text = String::new();
        for line in &self.lines {
            let verdict = match line.verdict {
                Verdict::Ok => "ok",
                Verdict::Warn => "warn",
                Verdict::Fail => "FAIL",
            };
            text += &format!("{verdict:<4}  {:<width$}  {}\n", line.check, line.says);
            if let Some(fix) = &line.fix {
                text += &format!("{:<4}  {:<width$}    to do: {fix}\n", "", "");
            }
        }
        let count = |v| self.lines.iter().filter(|l| l.verdict == v).count();
        text += &format!(
            "{}: {} ok, {} warnings, {} failures",
            self.environment,
            count(Verdict::Ok),
            count(Verdict::Warn),
            count(Verdict::Fail)
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_shows_each_line_with_its_fix_and_differs_where_one_fails_or_runs_out() {
        let report = |lines: Vec<Line>| Report {
            environment: "dev".to_owned(),
            lines,
        };
        let all_well = report(vec![Line::ok("engine", "Terraform 1.11.4")]);
        assert!(!all_well.differs());
        let warned = report(vec![Line::warn("backup", "no backup", "make one")]);
        assert!(!warned.differs() && !warned.has_failed());
        let mut expiring = warned.clone();
        expiring.lines[0].expires = true;
        assert!(expiring.differs() && !expiring.has_failed());
        let failed = report(vec![
            Line::ok("engine", "Terraform 1.11.4"),
            Line::fail("dns zone", "there is no zone", "make it"),
        ]);
        assert!(failed.differs() && failed.has_failed());
        assert_eq!(
            failed.text(),
            "ok    engine    Terraform 1.11.4\n\
             FAIL  dns zone  there is no zone\n\
             \u{20}                 to do: make it\n\
             dev: 1 ok, 0 warnings, 1 failures"
        );
        let json = serde_json::to_value(&failed).unwrap();
        assert_eq!(json["lines"][1]["verdict"], "fail");
        assert_eq!(json["lines"][1]["fix"], "make it");
    }
}
