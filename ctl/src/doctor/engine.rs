//! Terraform or OpenTofu.

use super::{Line, Options};
use crate::engine_version::{Engine, EngineError, find_engine};

pub(super) async fn check(options: &Options) -> Vec<Line> {
    let found = find_engine(options.engine.as_deref(), &options.path).await;
    vec![judge(&found)]
}

fn judge(found: &Result<Engine, EngineError>) -> Line {
    match found {
        Ok(engine) => Line::ok(
            "engine",
            format!(
                "{} {} ({})",
                engine.kind,
                engine.version,
                engine.program.display()
            ),
        ),
        Err(error) => {
            let says = error.to_string();
            // Each of them ends with what to do.
            let (says, fix) = says
                .split_once(": ")
                .or_else(|| says.rsplit_once("; "))
                .unwrap_or((&says, "name another with --engine"));
            Line::fail("engine", says, fix)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{Fail, Ok as Well};
    use super::*;
    use crate::engine_version::{EngineKind, Version};

    #[test]
    fn engine() {
        let version = |text| Version::parse(text).unwrap();
        let good = Engine {
            kind: EngineKind::Terraform,
            program: "/bin/terraform".into(),
            version: version("1.11.4"),
        };
        let line = judge(&Ok(good));
        assert_eq!(
            (line.verdict, line.says.as_str()),
            (Well, "Terraform 1.11.4 (/bin/terraform)")
        );
        let old = EngineError::TooOld {
            program: "/bin/tofu".into(),
            kind: EngineKind::OpenTofu,
            found: version("1.8.0"),
        };
        let line = judge(&Err(old));
        assert_eq!(
            (line.verdict, line.fix.as_deref()),
            (Fail, Some("install a newer one"))
        );
        let line = judge(&Err(EngineError::Missing));
        assert_eq!(line.says, "neither terraform nor tofu is on the PATH");
        assert!(line.fix.unwrap().starts_with("install Terraform"));
        let line = judge(&Err(EngineError::NoProgram("/x".into())));
        assert_eq!((line.verdict, line.fix.is_some()), (Fail, true));
    }
}
