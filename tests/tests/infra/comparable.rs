//! Observed accounts made comparable with each other.

use serde_json::{Value, json};

use crate::desk::Desk;

/// An observed account without what is another at each run: keys, digests, numbers that were burned.
pub(crate) fn comparable(desk: &Desk, seen: &Value) -> Value {
    let mut seen = seen.clone();
    for template in seen["templates"].as_array_mut().unwrap() {
        let text = template["user_data"].as_str().unwrap();
        template["user_data"] = json!(text.lines().next().unwrap());
    }
    for bucket in seen["buckets"].as_object_mut().unwrap().values_mut() {
        let keys = bucket["keys"].as_array().unwrap();
        let mut kinds: Vec<String> = keys.iter().map(|k| kind(k.as_str().unwrap())).collect();
        kinds.sort();
        kinds.dedup();
        bucket["keys"] = json!(kinds);
    }
    let text = seen.to_string();
    let name = |what: &str| desk.prepared[what].as_str().unwrap().to_owned();
    let text = text
        .replace(&name("key"), "KEY")
        .replace(&name("image"), "IMAGE");
    serde_json::from_str(&text).unwrap()
}

/// A key with its digest and its number taken out.
fn kind(key: &str) -> String {
    let parts: Vec<String> = key
        .split(['/', '.', '-'])
        .map(|part| {
            let digest = part.len() == 64 && part.chars().all(|c| c.is_ascii_hexdigit());
            let number = !part.is_empty() && part.chars().all(|c| c.is_ascii_digit());
            match (digest, number) {
                (true, _) => "DIGEST".to_owned(),
                (_, true) => "N".to_owned(),
                _ => part.to_owned(),
            }
        })
        .collect();
    parts.join("/")
}
