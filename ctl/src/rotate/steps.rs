//! Taking a step: the keyring is changed, and nothing else. The next publish delivers it.

use std::collections::BTreeSet;

use anyhow::Context as _;
use jiff::Timestamp;
use shared::documents::{KeyringContent, Pki, StepMark};
use shared::names::GroupName;

use super::decide::{Obstacle, obstacles};
use super::evidence::gather;
use super::subject::{Action, Subject};
use crate::context::Context;
use crate::env::SECURE;
use crate::exit::mistake;
use crate::keyring;
use crate::pki::{Names, PkiError, complete, deliver};

/// What an operator takes upon themselves.
#[derive(Debug, Clone, Default)]
pub struct Choices {
    /// Nodes, or groups without any, that are not waited for.
    pub without: BTreeSet<String>,
    /// The time that what was issued is given is not waited for.
    pub without_waiting: bool,
}

/// A step that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The last step.
    pub action: Action,
    /// The groups whose files it changes.
    pub groups: BTreeSet<GroupName>,
    /// What was made anew with it, a line each.
    pub made: Vec<String>,
    /// What stood against it, and was waived.
    pub waived: Vec<Obstacle>,
}

/// Takes steps of a rotation, in one write of the keyring: those that `wanted` gives for where the rotation is. Nodes
/// are waited for before the first of them.
///
/// # Errors
/// A [`crate::exit::Mistake`] naming everything that stands against it; [`keyring::modify`]'s. Nothing is changed then.
pub async fn take(
    context: &Context,
    subject: Subject,
    wanted: impl Fn(shared::documents::Step) -> Vec<Action>,
    choices: &Choices,
    now: Timestamp,
) -> anyhow::Result<Taken> {
    let found = keyring::read_required(context).await?;
    let evidence = gather(context, &found, now).await?;
    let names = Names::of(&context.workspace.environment);
    let mut last: Option<(KeyringContent, Taken)> = None;
    keyring::modify_numbered(context, |content, version| {
        // A write that was not answered and has happened all the same: it is taken once.
        if last.as_ref().is_some_and(|(written, _)| written == content) {
            return Ok(false);
        }
        let pki = content.pki.as_mut().ok_or_else(no_pki)?;
        let step = subject
            .step(pki)
            .ok_or_else(|| mistake(format!("the keyring has no {subject} yet: publish first")))?;
        let actions = wanted(step);
        let (Some(first), Some(action)) = (actions.first(), actions.last().copied()) else {
            return Err(mistake(format!("{subject}: there is nothing to do")));
        };
        let found = obstacles(subject, *first, pki, &evidence, now);
        let is_waived = |o: &Obstacle| o.is_waived(&choices.without, choices.without_waiting);
        let (waived, in_the_way): (Vec<_>, Vec<_>) = found.into_iter().partition(is_waived);
        if !in_the_way.is_empty() {
            return Err(refused(subject, *first, &in_the_way));
        }
        let before = pki.clone();
        for action in &actions {
            subject
                .advance(pki, *action, &names, now)
                .map_err(|e| mistake(format!("{subject}: {e}")))?;
        }
        let made = completed(pki, &names, now)?;
        let mut groups = concerned(&context.workspace.groups, &before, pki, &names)?;
        if subject == Subject::Encryption {
            // Its agents are told of the keys, and of the order, in files of their own.
            let secure = context
                .workspace
                .groups
                .iter()
                .filter(|g| g.as_str() == SECURE);
            groups.extend(secure.cloned());
        }
        let mark = StepMark {
            keyring: version,
            at: now,
            groups: groups.clone(),
        };
        let subject = subject.as_str().to_owned();
        if action == Action::Retire {
            for older in &mut pki.at_rest.older {
                older.retired.get_or_insert_with(|| mark.clone());
            }
            pki.rotations.remove(&subject);
        } else {
            pki.rotations.insert(subject, mark);
        }
        let taken = Taken {
            action,
            groups,
            made,
            waived,
        };
        last = Some((content.clone(), taken));
        Ok(true)
    })
    .await?;
    last.map(|(_, taken)| taken)
        .context("the keyring was not looked at")
}

/// Makes certificates again, whatever their age: those named, or all. Gives what was made, a line each.
///
/// # Errors
/// A [`crate::exit::Mistake`] for names that no certificate has; [`keyring::modify`]'s. Nothing is changed then.
pub async fn reissue(
    context: &Context,
    named: &[String],
    now: Timestamp,
) -> anyhow::Result<Vec<String>> {
    let names = Names::of(&context.workspace.environment);
    let mut made = Vec::new();
    keyring::modify(context, |content| {
        let pki = content.pki.as_mut().ok_or_else(no_pki)?;
        let known: Vec<&str> = crate::pki::specs(&names).iter().map(|s| s.name).collect();
        let unknown: Vec<&str> = named
            .iter()
            .map(String::as_str)
            .filter(|n| !known.contains(n))
            .collect();
        if !unknown.is_empty() {
            return Err(mistake(format!(
                "no certificate is called {}; there are {}",
                unknown.join(", "),
                known.join(", ")
            )));
        }
        let wanted = |name: &str| {
            known.contains(&name) && (named.is_empty() || named.iter().any(|n| n == name))
        };
        // A certificate of a newer build is not this one's to make.
        pki.leaves.retain(|name, _| !wanted(name));
        made = completed(pki, &names, now)?;
        Ok(true)
    })
    .await?;
    Ok(made)
}

fn completed(pki: &mut Pki, names: &Names, now: Timestamp) -> anyhow::Result<Vec<String>> {
    let mut whole = Some(pki.clone());
    let made = complete(&mut whole, names, now)?;
    if let Some(whole) = whole {
        *pki = whole;
    }
    Ok(made)
}

/// The groups whose files differ between the two.
fn concerned(
    groups: &[GroupName],
    before: &Pki,
    after: &Pki,
    names: &Names,
) -> Result<BTreeSet<GroupName>, PkiError> {
    let mut concerned = BTreeSet::new();
    for group in groups {
        if deliver(group, before, names)? != deliver(group, after, names)? {
            concerned.insert(group.clone());
        }
    }
    Ok(concerned)
}

fn no_pki() -> anyhow::Error {
    mistake("the keyring holds no certificates yet: `platformctl publish` makes them")
}

fn refused(subject: Subject, action: Action, obstacles: &[Obstacle]) -> anyhow::Error {
    let mut text = format!("{subject} cannot be {} yet:", past(action));
    for obstacle in obstacles {
        text.push_str(&format!("\n  {obstacle}"));
    }
    mistake(text)
}

const fn past(action: Action) -> &'static str {
    match action {
        Action::Stage => "staged",
        Action::Promote => "promoted",
        Action::Rewrite => "rewritten",
        Action::Retire => "retired",
    }
}
