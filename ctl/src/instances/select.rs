//! Which machine was meant.

use super::Instance;

/// Not exactly one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// None.
    #[error(
        "no machine is {wanted} by name, id, address or DNS name; there is: {}",
        listed(known)
    )]
    None {
        /// What was asked for.
        wanted: String,
        /// Every machine there is.
        known: Vec<String>,
    },
    /// Several.
    #[error("{wanted} is the name of {} machines; say which by id or address: {}", candidates.len(), listed(candidates))]
    Several {
        /// What was asked for.
        wanted: String,
        /// They.
        candidates: Vec<String>,
    },
}

fn listed(lines: &[String]) -> String {
    match lines {
        [] => "none".to_owned(),
        lines => lines.iter().map(|line| format!("\n    {line}")).collect(),
    }
}

/// The machine of that id, address, DNS name (whole or its first label, which is the Kubernetes node's name) or name.
///
/// # Errors
/// [`SelectError`] with the candidates.
pub fn select<'a>(instances: &'a [Instance], wanted: &str) -> Result<&'a Instance, SelectError> {
    let is = |field: &Option<String>| field.as_deref() == Some(wanted);
    let is_host = |dns: &Option<String>| {
        dns.as_deref()
            .is_some_and(|d| d == wanted || d.split('.').next() == Some(wanted))
    };
    let exactly = instances.iter().find(|i| {
        i.id == wanted || is(&i.private_ip) || is(&i.public_ip) || is_host(&i.private_dns)
    });
    if let Some(instance) = exactly {
        return Ok(instance);
    }
    let named: Vec<&Instance> = instances.iter().filter(|i| i.name == wanted).collect();
    let lines = |all: &mut dyn Iterator<Item = &'a Instance>| all.map(describe).collect();
    match named.as_slice() {
        [one] => Ok(one),
        [] => Err(SelectError::None {
            wanted: wanted.to_owned(),
            known: lines(&mut instances.iter()),
        }),
        _ => Err(SelectError::Several {
            wanted: wanted.to_owned(),
            candidates: lines(&mut named.into_iter()),
        }),
    }
}

fn describe(instance: &Instance) -> String {
    let address = |a: &Option<String>| a.clone().unwrap_or_else(|| "-".to_owned());
    format!(
        "{}  {}  {}  {}  {}  {}",
        instance.name,
        instance.id,
        address(&instance.private_ip),
        address(&instance.public_ip),
        instance.state,
        instance.zone
    )
}

#[cfg(test)]
mod tests {
    use super::super::tests::instance;
    use super::*;

    #[test]
    fn by_name_id_address_or_dns_name() {
        let all = [
            instance("dev-compute", "i-1", 1),
            instance("dev-compute", "i-2", 2),
            instance("dev-secure", "i-3", 3),
        ];
        for (wanted, id) in [
            ("i-2", "i-2"),
            ("10.100.2.1", "i-1"),
            ("192.0.2.2", "i-2"),
            ("ip-10-100-2-3", "i-3"),
            ("ip-10-100-2-3.eu-west-1.compute.internal", "i-3"),
            ("dev-secure", "i-3"),
        ] {
            assert_eq!(select(&all, wanted).unwrap().id, id, "{wanted}");
        }
        let several = select(&all, "dev-compute").unwrap_err().to_string();
        assert!(
            several.contains("2 machines") && several.contains("i-1") && several.contains("i-2"),
            "{several}"
        );
        assert!(!several.contains("i-3"), "{several}");
        let none = select(&all, "10.100.2").unwrap_err().to_string();
        assert!(none.contains("i-1") && none.contains("i-3"), "{none}");
        // What is absent is nobody's name.
        let mut bare = instance("dev-secure", "i-4", 4);
        bare.public_ip = None;
        assert!(select(&[bare], "").is_err());
    }
}
