//! A strict model of the cloud-config that coreos-cloudinit honours.
//!
//! coreos-cloudinit ignores what it does not know, with a line in a log of a machine that may never be reachable. So
//! an unknown key is a failure here, and so is what it would take but what hurts later: it runs at every boot, it writes a file through
//! a visible temporary one in the same directory, and it waits for each unit that it starts.

mod reader;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use shared::check::yaml::parse_document;

use reader::Reader;

/// The first line, without which coreos-cloudinit takes user data for something else.
const HEADER: &str = "#cloud-config";
/// What coreos-cloudinit replaces anywhere in the text, in scripts too, unless a backslash is before it.
const SUBSTITUTED: [&str; 4] = [
    "$private_ipv4",
    "$public_ipv4",
    "$private_ipv6",
    "$public_ipv6",
];
/// Directories that a file must not be written to, and why.
const REFUSED_PLACES: [(&str, &str); 6] = [
    (
        "/etc/kubernetes",
        "that is the releases': what is written at each boot would take a node back",
    ),
    ("/var/lib/platform-agent", "that is the agent's own"),
    (
        "/etc/cni/net.d",
        "its temporary file there would be read as a network",
    ),
    (
        "/etc/systemd",
        "a unit goes under coreos.units, which reloads systemd",
    ),
    ("/usr", "it is read-only"),
    (
        "/run",
        "it is gone at the next boot before anything is written",
    ),
];
/// What shows that a secret got in: user data can be read by everything on the machine.
const SECRETS: [&str; 4] = [
    "PRIVATE KEY-----",
    "AGE-SECRET-KEY-",
    "aws_secret_access_key",
    "client-key-data",
];
/// The commands that a unit can be given.
const COMMANDS: [&str; 7] = [
    "start",
    "stop",
    "restart",
    "reload",
    "try-restart",
    "reload-or-restart",
    "reload-or-try-restart",
];

/// A cloud-config, as far as the platform uses one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CloudConfig {
    /// What is written, in this order, before any unit.
    pub files: Vec<WrittenFile>,
    /// The units, in the order of their commands.
    pub units: Vec<Unit>,
}

/// A file of `write_files`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WrittenFile {
    /// Its absolute path.
    pub path: String,
    /// Its mode.
    pub mode: u32,
    /// Its content, decoded.
    pub content: Vec<u8>,
}

/// A unit of `coreos.units`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unit {
    /// Its full name.
    pub name: String,
    /// Its text, where it is written.
    pub content: Option<String>,
    /// What is done with it, waiting for the end, after all were written.
    pub command: Option<String>,
    /// Whether it starts at each boot.
    pub enable: bool,
    /// Whether it is masked.
    pub mask: bool,
    /// Its drop-ins, by file name.
    pub drop_ins: Vec<(String, String)>,
}

/// Reads a cloud-config.
///
/// # Errors
/// Everything in it that coreos-cloudinit would ignore or stumble over, or that would hurt later.
pub fn parse(text: &str) -> Result<CloudConfig, Vec<String>> {
    let mut problems = Vec::new();
    if text.lines().next().map(str::trim_end) != Some(HEADER) {
        problems.push(format!("the first line must be {HEADER}"));
    }
    for (at, line) in text.lines().enumerate() {
        for token in SUBSTITUTED {
            let replaced = line
                .match_indices(token)
                .any(|(start, _)| !line.get(..start).unwrap_or_default().ends_with('\\'));
            if replaced {
                problems.push(format!(
                    "line {}: coreos-cloudinit replaces {token} wherever it stands; write \\{token}",
                    at + 1
                ));
            }
        }
    }
    for (at, line) in text.lines().enumerate() {
        // This parser takes 0644 for a text, another takes it for the number 420.
        let unquoted = line.trim().strip_prefix("permissions:").map(str::trim);
        if unquoted.is_some_and(|v| !v.is_empty() && v.bytes().all(|b| b.is_ascii_digit())) {
            problems.push(format!("line {}: permissions must be in quotes", at + 1));
        }
    }
    problems.extend(secrets_in("the text", text));
    let document = match parse_document(text.as_bytes()) {
        Ok(document) => document,
        Err(found) => {
            problems.extend(found.iter().map(ToString::to_string));
            return Err(problems);
        }
    };
    let mut top = Reader::new("", &document, &mut problems);
    let files = top.list("write_files");
    let coreos = top.take("coreos").cloned().unwrap_or_default();
    top.strings("ssh_authorized_keys");
    top.text("hostname");
    top.finish();
    let units = if coreos.is_null() {
        Vec::new()
    } else {
        let mut coreos = Reader::new("coreos", &coreos, &mut problems);
        let units = coreos.list("units");
        coreos.finish();
        units
    };
    let config = CloudConfig {
        files: each(&files, "write_files", &mut problems, file),
        units: each(&units, "coreos.units", &mut problems, unit),
    };
    config.check(&mut problems);
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(problems)
    }
}

fn each<T>(
    values: &[Value],
    name: &str,
    problems: &mut Vec<String>,
    read: fn(Reader<'_>) -> T,
) -> Vec<T> {
    values
        .iter()
        .enumerate()
        .map(|(at, value)| read(Reader::new(&format!("{name}[{at}]"), value, problems)))
        .collect()
}

fn file(mut reader: Reader<'_>) -> WrittenFile {
    let path = reader.required("path");
    reader.place = path.clone();
    let content = reader.required("content");
    let encoding = reader.text("encoding");
    let mode = reader.required("permissions");
    reader.text("owner");
    let content = match encoding.as_deref() {
        None => content.into_bytes(),
        Some("b64" | "base64") => STANDARD.decode(content.as_bytes()).unwrap_or_else(|_| {
            reader.problem("the content is not base64");
            Vec::new()
        }),
        Some(other) => {
            reader.problem(&format!("encoding {other:?} is not b64 or base64"));
            Vec::new()
        }
    };
    let octal = matches!(mode.len(), 3..=5) && mode.bytes().all(|b| (b'0'..=b'7').contains(&b));
    if !octal && !mode.is_empty() {
        reader.problem(&format!(
            "permissions {mode:?} must be octal digits, such as \"0644\""
        ));
    }
    if !path.starts_with('/')
        || path
            .split('/')
            .skip(1)
            .any(|p| matches!(p, "" | "." | ".."))
    {
        reader.problem("the path must be absolute and plain");
    }
    for (place, why) in REFUSED_PLACES {
        if path == place || path.strip_prefix(place).is_some_and(|p| p.starts_with('/')) {
            reader.problem(&format!("nothing is written below {place}: {why}"));
        }
    }
    let text = String::from_utf8_lossy(&content);
    if encoding.is_some() {
        reader.problems(secrets_in(&path, &text));
    }
    if text
        .lines()
        .any(|l| matches!(l.trim(), "kind: Pod" | "\"kind\": \"Pod\","))
    {
        reader.problem("a manifest belongs to a release");
    }
    reader.finish();
    WrittenFile {
        path,
        mode: u32::from_str_radix(&mode, 8).unwrap_or(0),
        content,
    }
}

fn unit(mut reader: Reader<'_>) -> Unit {
    let name = reader.required("name");
    reader.place = name.clone();
    let unit = Unit {
        content: reader.text("content"),
        command: reader.text("command"),
        enable: reader.flag("enable"),
        mask: reader.flag("mask"),
        drop_ins: reader.drop_ins(),
        name,
    };
    reader.flag("runtime");
    let kinds = [
        ".service", ".target", ".timer", ".mount", ".socket", ".path",
    ];
    if !kinds.iter().any(|kind| unit.name.ends_with(kind)) || unit.name.contains('/') {
        reader.problem("that is not the full name of a unit");
    }
    if let Some(command) = unit.command.as_deref().filter(|c| !COMMANDS.contains(c)) {
        reader.problem(&format!("there is no command {command:?}"));
    }
    if unit.mask && (unit.content.is_some() || unit.enable || unit.command.is_some()) {
        reader.problem("a masked unit has nothing else");
    }
    reader.finish();
    unit
}

fn secrets_in(place: &str, text: &str) -> Vec<String> {
    SECRETS
        .iter()
        .filter(|mark| text.contains(**mark))
        .map(|mark| format!("{place} holds {mark:?}: a secret never goes into user data"))
        .collect()
}

// === impl CloudConfig ===

impl CloudConfig {
    /// What is in it, by name with its length, the largest first.
    #[must_use]
    pub fn parts(&self) -> Vec<(String, usize)> {
        let files = self.files.iter().map(|f| (f.path.clone(), f.content.len()));
        let units = self.units.iter().map(|u| {
            let drop_ins: usize = u.drop_ins.iter().map(|(_, text)| text.len()).sum();
            (
                u.name.clone(),
                drop_ins + u.content.as_deref().map_or(0, str::len),
            )
        });
        let mut parts: Vec<(String, usize)> = files.chain(units).collect();
        parts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        parts
    }

    /// A file by its path.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&WrittenFile> {
        self.files.iter().find(|f| f.path == path)
    }

    /// A unit by its name.
    #[must_use]
    pub fn unit(&self, name: &str) -> Option<&Unit> {
        self.units.iter().find(|u| u.name == name)
    }

    fn check(&self, problems: &mut Vec<String>) {
        let names = self.files.iter().map(|f| &f.path);
        let mut names: Vec<&String> = names.chain(self.units.iter().map(|u| &u.name)).collect();
        names.sort();
        for pair in names.windows(2) {
            if let [one, other] = pair
                && one == other
            {
                problems.push(format!("{one} is there twice"));
            }
        }
        let commands: Vec<&Unit> = self.units.iter().filter(|u| u.command.is_some()).collect();
        for unit in commands.iter().rev().skip(1) {
            let text = unit.content.as_deref().unwrap_or_default();
            if text.contains("Type=notify") || text.contains("TimeoutStartSec=infinity") {
                problems.push(format!(
                    "{}: coreos-cloudinit waits until it has started, which may be never, and what follows waits too: \
                     its command must be the last",
                    unit.name
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests;
