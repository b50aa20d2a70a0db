use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn plain(text: &str) -> Vec<(usize, String, String)> {
    let values = scan(text)
        .scalars
        .into_iter()
        .filter(|s| !s.is_key && s.style == Style::Plain);
    values.map(|s| (s.line, s.path, s.text)).collect()
}

fn duplicates(text: &str) -> Vec<(usize, usize, String)> {
    scan(text)
        .duplicates
        .into_iter()
        .map(|d| (d.first_line, d.line, d.path))
        .collect()
}

fn entry(line: usize, path: &str, text: &str) -> (usize, String, String) {
    (line, path.to_owned(), text.to_owned())
}

#[test]
fn scalars_come_with_line_and_path() {
    let text = "\
# a comment: no
spec:
  containers:
  - name: etcd  # trailing: no
    command: [etcd, \"--a=b, c\", '--d: e']
    ports:
      - {port: 1, name: a}
      - port: 2
  hostNetwork: true
";
    assert_eq!(
        plain(text),
        [
            entry(4, "spec.containers[0].name", "etcd"),
            entry(5, "spec.containers[0].command[0]", "etcd"),
            entry(7, "spec.containers[0].ports[0].port", "1"),
            entry(7, "spec.containers[0].ports[0].name", "a"),
            entry(8, "spec.containers[0].ports[1].port", "2"),
            entry(9, "spec.hostNetwork", "true"),
        ]
    );
    assert_eq!(duplicates(text), []);
}

#[test]
fn what_stands_in_strings_over_several_lines_is_no_scalar() {
    let text = "a: |\n  b: yes\n\n  no\nb: \"x\n  c: on\n  y\"\nc: word\n  on\nd: >-\n  off\ne: 'it''s: no'\nf: yes\n";
    assert_eq!(plain(text), [entry(8, "c", "word"), entry(13, "f", "yes")]);
}

#[test]
fn colons_and_hashes_inside_words_belong_to_them() {
    let text = "a: http://x:80#y\nb: 22:22\nc: --x=#1\nd: !!str yes\ne: &anchor no\nf: *anchor\n";
    let found: Vec<String> = plain(text).into_iter().map(|(_, _, text)| text).collect();
    assert_eq!(found, ["http://x:80#y", "22:22", "--x=#1", "yes", "no"]);
    assert!(scan(text).scalars.iter().any(|s| s.path == "d" && s.tagged));
}

#[test]
fn every_duplicate_key_is_found_once_with_both_lines() {
    let text = "a: 1\nb:\n  c: 1\n  \"c\": 2\nlist:\n- x: 1\n  x: 2\n- x: 3\nflow: {k: 1, j: 2, k: 3}\na: 2\n";
    let expected = [
        (3, 4, "b.c"),
        (6, 7, "list[0].x"),
        (9, 9, "flow.k"),
        (1, 10, "a"),
    ];
    let expected: Vec<_> = expected
        .iter()
        .map(|(f, l, p)| (*f, *l, (*p).to_owned()))
        .collect();
    assert_eq!(duplicates(text), expected);
}

#[test]
fn a_second_document_starts_anew() {
    assert_eq!(duplicates("a: 1\n---\na: 2\n"), []);
}

#[test]
fn a_line_is_found_for_a_path_or_the_nearest_field_around_it() {
    let found = scan("spec:\n  containers:\n  - name: a\n    image: b\n");
    assert_eq!(found.line_of("spec.containers[0].image"), Some(4));
    assert_eq!(
        found.line_of("spec.containers[0].ports[3].hostPort"),
        Some(3)
    );
    assert_eq!(found.line_of("spec.containers"), Some(2));
    assert_eq!(found.line_of("nowhere"), None);
}

fn leaves(value: &Value, path: &str, into: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                leaves(value, &shared::check::yaml::join_key(path, key), into);
            }
        }
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                leaves(item, &format!("{path}[{i}]"), into);
            }
        }
        _ => into.push(path.to_owned()),
    }
}

fn any_object() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[ -~\n]{0,20}".prop_map(Value::from),
        "(yes|no|a: b|- x|# y|'|\"|\\[a\\]|x #y|22:22|--a=b)".prop_map(Value::from),
    ];
    let tree = leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 1..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-z]{1,5}", inner, 1..4).prop_map(|m| json!(m)),
        ]
    });
    proptest::collection::btree_map("[a-z]{1,5}", tree, 1..5).prop_map(|m| json!(m))
}

proptest! {
    /// The scanner sees just what a real emitter wrote: each value once, under its path, and no duplicate key.
    #[test]
    fn it_agrees_with_an_emitter(value in any_object()) {
        let mut expected = Vec::new();
        leaves(&value, "", &mut expected);
        expected.sort();
        for text in [serde_yaml::to_string(&value).unwrap(), serde_json::to_string_pretty(&value).unwrap()] {
            let found = scan(&text);
            let mut paths: Vec<String> = found.scalars.iter().filter(|s| !s.is_key).map(|s| s.path.clone()).collect();
            paths.sort();
            prop_assert_eq!(&paths, &expected, "{}", text);
            prop_assert_eq!(&found.duplicates, &[], "{}", text);
        }
    }

    #[test]
    fn arbitrary_text_never_panics(text in ".{0,200}") {
        scan(&text);
    }

    #[test]
    fn yaml_like_text_never_panics(text in "[-a-c:{}\\[\\],&*!|>'\"%#?<0-9. \n\t]{0,160}") {
        scan(&text);
    }
}
