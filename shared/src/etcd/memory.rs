//! What a node remembers of its membership: the form in which its configuration file is written.

use serde::{Deserialize, Serialize};

use super::facts::{Generation, MemberFacts};
use crate::documents::Nonce;

/// The line of the configuration file that says it, without the JSON.
const MARK: &str = "# platform-agent: ";

/// How a configuration file is written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Form {
    /// A member of the fence, which has no data yet.
    New {
        /// That of its start ticket.
        nonce: Nonce,
        /// Whether the ticket is known to be this node's: etcd may run.
        started: bool,
    },
    /// A learner that was added to a running cluster, and has no data yet.
    Join,
    /// A member with data. Without it, etcd refuses to start: it would have to ask other members, and none is named.
    Sealed,
}

/// A member of `initial-cluster`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitialMember {
    /// Its name.
    pub name: String,
    /// Where its peers reach it.
    pub peer_url: String,
}

/// What is durable about a node's membership.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// Of which generation.
    pub generation: Generation,
    /// How the file is written.
    pub form: Form,
    /// Whom it names as members.
    pub initial: Vec<InitialMember>,
    /// Whether its cluster was ever seen with a leader; none where an older agent wrote the file, or nobody can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub led: Option<bool>,
}

impl InitialMember {
    /// Of a node's facts.
    #[must_use]
    pub fn of(facts: &MemberFacts) -> Self {
        Self {
            name: facts.name.clone(),
            peer_url: facts.peer_url.clone(),
        }
    }
}

impl Memory {
    /// That of a member with data.
    #[must_use]
    pub fn sealed(generation: Generation, own: &MemberFacts) -> Self {
        Self {
            generation,
            form: Form::Sealed,
            initial: vec![InitialMember::of(own)],
            led: None,
        }
    }

    /// The same, with what is known of its cluster's leader.
    #[must_use]
    pub fn led(self, led: Option<bool>) -> Self {
        Self { led, ..self }
    }

    /// Whether etcd may run with it: a `new` one only once its ticket is known to be this node's.
    #[must_use]
    pub fn lets_run(&self) -> bool {
        !matches!(self.form, Form::New { started: false, .. })
    }

    /// `new` or `existing`.
    #[must_use]
    pub fn state(&self) -> &'static str {
        match self.form {
            Form::New { .. } => "new",
            Form::Join | Form::Sealed => "existing",
        }
    }

    /// The line that the file begins with.
    ///
    /// # Errors
    /// serde's own, never for this type.
    pub fn line(&self) -> Result<String, serde_json::Error> {
        Ok(format!("{MARK}{}\n", serde_json::to_string(self)?))
    }
}

/// What a configuration file says that the node remembers; none where the agent did not write it so.
#[must_use]
pub fn remembered(file: &str) -> Option<Memory> {
    let line = file.lines().next()?.strip_prefix(MARK)?;
    serde_json::from_str(line).ok()
}

#[cfg(test)]
mod tests {
    use super::super::step::testing::member;
    use super::*;

    #[test]
    fn what_is_remembered_is_read_back() {
        for form in [
            Form::New {
                nonce: Nonce::of(7),
                started: false,
            },
            Form::Join,
            Form::Sealed,
        ] {
            let memory = Memory {
                generation: Generation::FIRST,
                form,
                initial: vec![InitialMember::of(&member(1))],
                led: Some(false),
            };
            let file = format!("{}{{\"name\": \"x\"}}\n", memory.line().unwrap());
            assert_eq!(remembered(&file), Some(memory));
        }
        // As an older agent writes it.
        let old = Memory::sealed(Generation::FIRST, &member(1));
        assert!(!old.line().unwrap().contains("\"led\""));
        for other in ["", "{}", "# platform-agent: {}\n", "name: x\n"] {
            assert_eq!(remembered(other), None, "{other}");
        }
    }
}
