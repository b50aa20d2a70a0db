//! The table that operators know: name, private and public address, id, state and zone; then what the node reports.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Instance;
use crate::status::NodeReport;

/// What follows a cell of each of the first six columns, before padding.
const TRAILERS: [&str; 6] = ["", "  ", "  ", " ", "  ", "  "];

/// A line a machine, columns aligned; empty where there is none.
#[must_use]
pub fn table(instances: &[Instance], reports: &BTreeMap<String, NodeReport>) -> Vec<String> {
    let rows: Vec<(Vec<String>, &str)> = instances
        .iter()
        .map(|instance| (cells(instance, reports.get(&instance.id)), mark(instance)))
        .collect();
    let columns = rows.first().map_or(0, |(cells, _)| cells.len());
    let widths: Vec<usize> = (0..columns)
        .map(|n| {
            let cells = rows.iter().filter_map(|(cells, _)| cells.get(n));
            cells.map(String::len).max().unwrap_or(0)
        })
        .collect();
    rows.into_iter()
        .map(|(cells, mark)| {
            let mut line = String::new();
            for (cell, width) in cells.iter().zip(&widths) {
                line += &format!("|{cell:<width$}");
            }
            let mark = if mark.is_empty() {
                String::new()
            } else {
                format!("  {mark}")
            };
            line + "|" + &mark
        })
        .collect()
}

fn cells(instance: &Instance, report: Option<&NodeReport>) -> Vec<String> {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let known = [
        instance.name.clone(),
        or_dash(&instance.private_ip),
        or_dash(&instance.public_ip),
        instance.id.clone(),
        instance.state.clone(),
        instance.zone.clone(),
    ];
    let (release, phase) = match report.map(|r| r.status.as_ref()) {
        Some(Ok(status)) => (
            status
                .release
                .map_or_else(|| "-".to_owned(), |r| r.to_string()),
            status.phase.to_string(),
        ),
        // A report that is not believed.
        Some(Err(_)) => ("?".to_owned(), "?".to_owned()),
        None => ("-".to_owned(), "-".to_owned()),
    };
    let known = known.into_iter().zip(TRAILERS);
    known
        .chain([(release, "  "), (phase, "  ")])
        .map(|(text, trailer)| format!("  {text}{trailer}"))
        .collect()
}

fn mark(instance: &Instance) -> &'static str {
    match instance.out_of_date {
        Some(true) => "launch template out of date",
        _ => "",
    }
}

/// The same for programs: every address in full, and `null` for what is not known.
#[must_use]
pub fn as_json(instances: &[Instance], reports: &BTreeMap<String, NodeReport>) -> Value {
    let one = |instance: &Instance| {
        let status = reports
            .get(&instance.id)
            .and_then(|r| r.status.as_ref().ok());
        json!({
            "name": instance.name,
            "group": instance.group,
            "id": instance.id,
            "private_ip": instance.private_ip,
            "public_ip": instance.public_ip,
            "private_dns": instance.private_dns,
            "state": instance.state,
            "zone": instance.zone,
            "launched": instance.launched,
            "launch_template_out_of_date": instance.out_of_date,
            "lifecycle": instance.member.as_ref().map(|m| &m.lifecycle),
            "healthy": instance.member.as_ref().map(|m| m.healthy),
            "release": status.and_then(|s| s.release),
            "phase": status.map(|s| s.phase.to_string()),
        })
    };
    Value::Array(instances.iter().map(one).collect())
}

#[cfg(test)]
mod tests {
    use super::super::tests::instance;
    use super::*;

    #[test]
    fn the_table_that_operators_know() {
        let mut compute = instance("dev-compute", "i-d9e30f54", 1);
        compute.private_ip = Some("10.100.2.207".to_owned());
        compute.public_ip = Some("52.50.141.164".to_owned());
        let lines = table(std::slice::from_ref(&compute), &BTreeMap::new());
        assert_eq!(
            lines,
            [
                "|  dev-compute|  10.100.2.207  |  52.50.141.164  |  i-d9e30f54 |  running  |  eu-west-1c  |  -  |  -  |"
            ]
        );
        let mut secure = instance("dev-secure", "i-0123456789abcdef0", 7);
        secure.public_ip = None;
        secure.out_of_date = Some(true);
        assert_eq!(
            table(&[compute, secure], &BTreeMap::new()),
            [
                "|  dev-compute|  10.100.2.207  |  52.50.141.164  |  i-d9e30f54          |  running  |  eu-west-1c  |  -  |  -  |",
                "|  dev-secure |  10.100.2.7    |  -              |  i-0123456789abcdef0 |  running  |  eu-west-1c  |  -  |  -  |  launch template out of date",
            ]
        );
        assert!(table(&[], &BTreeMap::new()).is_empty());
    }
}
