//! The artifacts: whether `artifacts.toml` has what the groups' machines need. A publish without is refused, so this comes
//! before anything is made.

use std::collections::BTreeMap;

use shared::names::GroupName;

use super::Line;
use crate::artifact::{FILE, Follows, missing};
use crate::context::Workspace;

const CHECK: &str = "artifacts";

pub(super) fn check(workspace: &Workspace) -> Vec<Line> {
    match missing(workspace) {
        Ok(missing) => judge(&missing, &Follows::of(workspace), workspace.name.as_str()),
        Err(error) => vec![Line::fail(CHECK, format!("{error:#}"), "mend what it says")],
    }
}

fn judge(
    missing: &BTreeMap<String, Vec<GroupName>>,
    follows: &Follows,
    environment: &str,
) -> Vec<Line> {
    if missing.is_empty() {
        let says = format!("{FILE} has all that the machines need");
        return vec![Line::ok(CHECK, says)];
    }
    let line = |(name, groups): (&String, &Vec<GroupName>)| {
        let groups: Vec<&str> = groups.iter().map(GroupName::as_str).collect();
        let says = format!(
            "{name} is not in {FILE}; machines of {} need it",
            groups.join(" and ")
        );
        Line::fail(CHECK, says, follows.command(name, environment))
    };
    missing.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn each_missing_artifact_is_a_line_with_the_command_that_lists_it() {
        let follows = Follows {
            kubernetes: "1.36.3".to_owned(),
            etcd: "3.6.8-0".to_owned(),
        };
        let lines = judge(&BTreeMap::new(), &follows, "dev");
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].verdict, Verdict::Ok);

        let groups = |names: &[&str]| names.iter().map(|n| n.parse().unwrap()).collect();
        let missing = BTreeMap::from([
            ("etcdutl".to_owned(), groups(&["secure"])),
            ("kubelet".to_owned(), groups(&["secure", "compute"])),
        ]);
        let lines = judge(&missing, &follows, "dev");
        assert!(lines.iter().all(|line| line.verdict == Verdict::Fail));
        let says: Vec<&str> = lines.iter().map(|line| line.says.as_str()).collect();
        assert_eq!(
            says,
            [
                "etcdutl is not in artifacts.toml; machines of secure need it",
                "kubelet is not in artifacts.toml; machines of secure and compute need it",
            ]
        );
        let fix = lines[1].fix.as_deref().unwrap();
        assert!(
            fix.starts_with("platformctl artifacts add -e dev kubelet https://dl.k8s.io/v1.36.3/"),
            "{fix}"
        );
    }
}
