//! The template of user data, rendered strictly.

use std::collections::BTreeMap;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value};

use super::{DIST, Input, PROGRAMS, TEMPLATE, compact, endpoints, is_control_plane};

/// How alike (0 to 1) two names must be for "did you mean".
const LIKENESS: f64 = 0.8;

/// The text, or every problem that can be seen at once.
pub(super) fn render(input: &Input<'_>) -> Result<String, Vec<String>> {
    let values = values(input);
    let environment = environment(input.template)?;
    let template = environment
        .get_template(TEMPLATE)
        .map_err(|e| vec![told(&e)])?;
    let known = |name: &str| {
        values.contains_key(name) || environment.globals().any(|(global, _)| global == name)
    };
    let mut unknown: Vec<String> = template
        .undeclared_variables(false)
        .into_iter()
        .filter(|name| !known(name))
        .collect();
    if !unknown.is_empty() {
        unknown.sort();
        return Err(unknown
            .iter()
            .map(|name| undefined(input.template, name, &values))
            .collect());
    }
    template
        .render(Value::from_pairs(values))
        .map_err(|e| vec![told(&e)])
}

fn values(input: &Input<'_>) -> BTreeMap<String, Value> {
    let (s3_url, sts_url) = endpoints(input.environment);
    let mut values: BTreeMap<String, Value> = input
        .environment
        .template_values()
        .into_iter()
        .map(|(key, value)| (key, Value::from(Serde(value))))
        .collect();
    let ours = [
        ("group", Value::from(input.group.as_str())),
        ("control_plane", Value::from(is_control_plane(input.group))),
        ("trusted_root", Value::from(input.trusted_root)),
        ("agent_sha256", Value::from(input.agent.to_string())),
        ("s3_url", Value::from(s3_url)),
        ("sts_url", Value::from(sts_url)),
        ("programs", Value::from(PROGRAMS.to_vec())),
    ];
    values.extend(ours.map(|(key, value)| (key.to_owned(), value)));
    values
}

fn environment(source: &str) -> Result<Environment<'_>, Vec<String>> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_syntax(
        SyntaxConfig::builder()
            .keep_trailing_newline(true)
            .build()
            .unwrap_or_default(),
    );
    environment.set_formatter(|out, state, value| match value.kind() {
        ValueKind::String | ValueKind::Number | ValueKind::Bool => {
            minijinja::escape_formatter(out, state, value)
        }
        kind => Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("a {kind} can't be printed"),
        )),
    });
    environment.add_function("dist", dist);
    environment.add_function("quoted", |text: String| {
        serde_json::to_string(&text)
            .map_err(|e| Error::new(ErrorKind::InvalidOperation, e.to_string()))
    });
    environment
        .add_template(TEMPLATE, source)
        .map_err(|e| vec![told(&e)])?;
    Ok(environment)
}

/// `dist(path, columns)`: a file of `agent/dist`, compact, as the lines of a YAML block.
fn dist(path: String, columns: usize) -> Result<String, Error> {
    let text = DIST
        .iter()
        .find(|(name, _)| *name == path)
        .map(|(_, text)| compact(text))
        .ok_or_else(|| {
            let names: Vec<&str> = DIST.iter().map(|(name, _)| *name).collect();
            let message = format!(
                "there is no {path} in agent/dist, only {}",
                names.join(", ")
            );
            Error::new(ErrorKind::InvalidOperation, message)
        })?;
    let indent = " ".repeat(columns);
    let lines: Vec<String> = text.lines().map(|l| format!("{indent}{l}")).collect();
    Ok(lines.join("\n"))
}

fn told(error: &Error) -> String {
    let place = error.line().map(|n| format!(":{n}")).unwrap_or_default();
    match error.detail() {
        Some(detail) => format!("{TEMPLATE}{place}: {}: {detail}", error.kind()),
        None => format!("{TEMPLATE}{place}: {}", error.kind()),
    }
}

fn undefined(source: &str, name: &str, values: &BTreeMap<String, Value>) -> String {
    let is_word = |line: &str| {
        line.split(|c: char| !(c.is_alphanumeric() || c == '_'))
            .any(|word| word == name)
    };
    let place = source
        .lines()
        .position(is_word)
        .map(|at| format!(":{}", at + 1))
        .unwrap_or_default();
    let nearest = values
        .keys()
        .map(|key| (strsim::jaro_winkler(key, name), key))
        .filter(|(likeness, _)| *likeness >= LIKENESS)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, key)| format!(" (did you mean `{key}`?)"))
        .unwrap_or_default();
    format!("{TEMPLATE}{place}: `{name}` is undefined{nearest}")
}
