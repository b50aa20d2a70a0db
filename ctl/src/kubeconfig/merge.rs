//! Merging into somebody's kubeconfig. The text is amended entry by entry, so that comments and the order of everything
//! else stay; what comes out is parsed and held against what it should mean, and where the text is laid out in a way that
//! this does not know, the file is written anew from its values, without its comments.

use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::document::{Kubeconfig, LISTS};

/// A merged kubeconfig.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// The file's new text.
    pub text: Zeroizing<String>,
    /// Whether comments were lost.
    pub lost_comments: bool,
}

/// A kubeconfig that nothing can be merged into.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// It is no YAML.
    #[error("the kubeconfig does not parse as YAML; mend it, or move it away")]
    Yaml(#[source] serde_yaml::Error),
    /// It is YAML and no kubeconfig.
    #[error("the kubeconfig is not one: {0}; mend it, or move it away")]
    Shape(&'static str),
}

/// Merges `new` into the text of a kubeconfig: its three entries take the place of those of the same names or are
/// appended, and its context becomes the current one. Nothing else changes.
///
/// # Errors
/// [`MergeError`]; nothing is lost then.
pub fn merge(text: &str, new: &Kubeconfig) -> Result<Merged, MergeError> {
    let old: Value = serde_yaml::from_str(text).map_err(MergeError::Yaml)?;
    let expected = merged_value(old, new)?;
    let amended = Zeroizing::new(amend(text, new));
    if serde_yaml::from_str::<Value>(&amended).is_ok_and(|value| value == expected) {
        return Ok(Merged {
            text: amended,
            lost_comments: false,
        });
    }
    let anew = serde_yaml::to_string(&expected).map_err(MergeError::Yaml)?;
    Ok(Merged {
        text: Zeroizing::new(anew),
        lost_comments: text.contains('#'),
    })
}

/// What the merged file should mean.
fn merged_value(old: Value, new: &Kubeconfig) -> Result<Value, MergeError> {
    let mut all = match old {
        Value::Null => Map::from_iter([
            ("apiVersion".to_owned(), json!("v1")),
            ("kind".to_owned(), json!("Config")),
        ]),
        Value::Object(all) => all,
        _ => return Err(MergeError::Shape("it is no map")),
    };
    if all.get("kind").is_some_and(|kind| kind != "Config") {
        return Err(MergeError::Shape("its kind is not Config"));
    }
    for list in LISTS {
        let entries = all.entry(list).or_insert(Value::Null);
        if entries.is_null() {
            *entries = json!([]);
        }
        let Value::Array(entries) = entries else {
            return Err(MergeError::Shape(
                "its clusters, users or contexts are no list",
            ));
        };
        let name = new.entry_name(list);
        let same = |entry: &&mut Value| entry.get("name").is_some_and(|n| *n == *name);
        match entries.iter_mut().find(same) {
            Some(entry) => *entry = new.value(list),
            None => entries.push(new.value(list)),
        }
    }
    all.insert("current-context".to_owned(), json!(new.name));
    Ok(Value::Object(all))
}

/// Amends the text, for the layout that kubectl and people write: keys in the first column, entries as blocks.
fn amend(text: &str, new: &Kubeconfig) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    if !lines.iter().any(|line| is_key(line)) {
        lines.extend(["apiVersion: v1", "kind: Config"].map(str::to_owned));
    }
    for list in LISTS {
        amend_list(&mut lines, list, new);
    }
    let current = format!("current-context: {}", new.name);
    match lines.iter_mut().find(|l| l.starts_with("current-context:")) {
        Some(line) => *line = current,
        None => lines.push(current),
    }
    lines.join("\n") + "\n"
}

/// Whether the line has a key in the first column.
fn is_key(line: &str) -> bool {
    line.starts_with(|c: char| c.is_ascii_alphabetic() || c == '"' || c == '\'')
}

fn amend_list(lines: &mut Vec<String>, list: &str, new: &Kubeconfig) {
    let entry = Zeroizing::new(new.entry(list));
    let head = format!("{list}:");
    let Some(begin) = lines.iter().position(|line| line.starts_with(&head)) else {
        lines.push(head);
        lines.extend(entry.lines().map(str::to_owned));
        return;
    };
    if let Some(line) = lines.get_mut(begin) {
        let rest = line.get(head.len()..).unwrap_or_default();
        let rest = rest.trim();
        if ["[]", "null", "~"].contains(&rest) {
            *line = head;
        }
    }
    let after = |from: usize, ends: &dyn Fn(&str) -> bool| {
        let mut rest = lines.iter().enumerate().skip(from);
        rest.find(|(_, line)| ends(line))
            .map_or(lines.len(), |(n, _)| n)
    };
    let end = after(begin + 1, &is_key);
    let dash = |line: &str| line.trim_start().starts_with("- ");
    let first = after(begin + 1, &dash);
    let indent = match lines.get(first).filter(|_| first < end) {
        Some(line) => line.len() - line.trim_start().len(),
        None => 0,
    };
    let is_entry = |line: &str| dash(line) && line.len() - line.trim_start().len() == indent;
    let mut starts = Vec::new();
    let mut at = first;
    while at < end {
        starts.push(at);
        at = after(at + 1, &is_entry);
    }
    let name = new.entry_name(list);
    let indented = entry
        .lines()
        .map(|line| format!("{}{line}", " ".repeat(indent)));
    let mut bounds = starts.iter().zip(starts.iter().skip(1).chain([&end]));
    let found = bounds.find_map(|(from, to)| {
        // Comments before the next entry belong to that one.
        let block = lines.get(*from..*to)?;
        let kept = block.iter().rev().take_while(|l| is_blank(l)).count();
        let to = to - kept;
        let parsed: Value = serde_yaml::from_str(&lines.get(*from..to)?.join("\n")).ok()?;
        let same = parsed.get(0)?.get("name")? == name.as_str();
        same.then_some(*from..to)
    });
    let range = found.unwrap_or_else(|| {
        let block = lines.get(begin + 1..end).unwrap_or_default();
        let kept = block.iter().rev().take_while(|l| is_blank(l)).count();
        end - kept..end - kept
    });
    lines.splice(range, indented);
}

fn is_blank(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#')
}

#[cfg(test)]
mod tests {
    use super::super::tests::issued;
    use super::*;

    fn names(text: &str, list: &str) -> Vec<String> {
        let value: Value = serde_yaml::from_str(text).unwrap();
        let entries = value[list].as_array().unwrap().iter();
        entries
            .map(|e| e["name"].as_str().unwrap().to_owned())
            .collect()
    }

    const OWN: &str = "\
# the file of an operator
apiVersion: v1
clusters:
# the old one
- cluster:
    server: https://old.example.com
  name: old   # still there
- name: dev
  cluster:
    server: https://stale.example.com

# of work
- cluster: {server: https://work.example.com}
  name: work
contexts:
- context:
    cluster: old
    user: old
  name: old
current-context: old
kind: Config
preferences: {}
users:
- name: old
  user:
    token: abc
# the end
";

    #[test]
    fn entries_are_replaced_or_appended_and_everything_else_stays() {
        let new = issued();
        let merged = merge(OWN, &new).unwrap();
        assert!(!merged.lost_comments);
        let text = merged.text.as_str();
        assert_eq!(names(text, "clusters"), ["old", "dev", "work"]);
        assert_eq!(names(text, "users"), ["old", "dev-admin"]);
        assert_eq!(names(text, "contexts"), ["old", "dev"]);
        assert!(!text.contains("stale.example.com"));
        for kept in [
            "# the file of an operator\n",
            "# the old one\n",
            "name: old   # still there\n",
            "\n\n# of work\n",
            "preferences: {}\n",
            "# the end\n",
            "current-context: dev\n",
        ] {
            assert!(text.contains(kept), "{kept:?} is not in\n{text}");
        }
        let again = merge(text, &new).unwrap();
        assert_eq!(again, merged);
    }

    #[test]
    fn what_is_laid_out_otherwise_is_merged_all_the_same() {
        let new = issued();
        let indented = "apiVersion: v1\nclusters:\n  - name: a\n    cluster:\n      server: x\nusers: []\nkind: Config\n";
        let merged = merge(indented, &new).unwrap();
        assert_eq!(names(&merged.text, "clusters"), ["a", "dev"]);
        assert!(!merged.lost_comments && merged.text.contains("  - name: dev\n"));
        for other in [
            "{\"clusters\": [{\"name\": \"a\", \"cluster\": {}}], \"kind\": \"Config\"}",
            "# a comment\n\"clusters\": [{name: a, cluster: {}}]\n",
            "clusters: [{name: a, cluster: {server: x}}]\n",
        ] {
            let merged = merge(other, &new).unwrap();
            assert_eq!(names(&merged.text, "clusters"), ["a", "dev"], "{other}");
            assert_eq!(merged.lost_comments, other.contains('#'), "{other}");
        }
        for empty in ["", "# nothing yet\n", "---\n"] {
            let merged = merge(empty, &new).unwrap();
            assert_eq!(names(&merged.text, "users"), ["dev-admin"], "{empty:?}");
            let value: Value = serde_yaml::from_str(&merged.text).unwrap();
            assert_eq!(value["kind"], "Config");
        }
    }

    #[test]
    fn what_is_no_kubeconfig_is_left_alone() {
        let new = issued();
        for bad in ["a: [", "- a\n", "kind: Pod\n", "clusters: none\n"] {
            assert!(merge(bad, &new).is_err(), "{bad}");
        }
    }

    mod laws {
        use proptest::prelude::*;

        use super::*;

        proptest! {
            #![proptest_config(ProptestConfig::with_cases(64))]
            #[test]
            fn no_other_entry_is_ever_lost(
                names in proptest::collection::btree_set("[a-z]{1,6}", 0..5),
                indent in 0usize..3,
                comments in any::<bool>(),
            ) {
                let mut text = String::from("apiVersion: v1\nkind: Config\n");
                for (list, key) in [("clusters", "cluster"), ("users", "user"), ("contexts", "context")] {
                    text += &format!("{list}:\n");
                    for name in &names {
                        if comments { text += "# c\n"; }
                        let pad = " ".repeat(indent);
                        text += &format!("{pad}- {key}:\n{pad}    x: {name}\n{pad}  name: {name}\n");
                    }
                }
                let old: Value = serde_yaml::from_str(&text).unwrap();
                let new = issued();
                let merged = merge(&text, &new).unwrap();
                let value: Value = serde_yaml::from_str(&merged.text).unwrap();
                prop_assert_eq!(value, merged_value(old, &new).unwrap());
                prop_assert!(!merged.lost_comments);
            }
        }
    }
}
