//! Something secret that is replaced in three steps, so that at no moment anything is signed with what somebody does
//! not trust yet, or trusts no more.

use serde::{Deserialize, Serialize};

/// A secret with its successor or its predecessor.
///
/// | step | in use | trusted |
/// | --- | --- | --- |
/// | steady | `current` | `current` |
/// | `stage` | `current` | `current`, `next` |
/// | `promote` (`next` becomes `current`) | `current` | `current`, `previous` |
/// | `retire` | `current` | `current` |
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotating<T> {
    /// What is in use: what signs, or encrypts, or is handed out.
    pub current: T,
    /// What will be in use, and is trusted already.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub next: Option<T>,
    /// What was in use, and is trusted still.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub previous: Option<T>,
}

/// How far a rotation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// None is under way.
    Steady,
    /// The successor is trusted and not in use.
    Staged,
    /// The successor is in use, and its predecessor trusted still.
    Promoted,
    /// As promoted, and what the predecessor is needed for is being made anew: only of what is stored.
    Rewriting,
}

/// A step that does not follow the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a rotation that is {found:?} cannot be {wanted}")]
pub struct OutOfStep {
    /// Where it is.
    pub found: Step,
    /// What was asked for.
    pub wanted: &'static str,
}

fn none<T>() -> Option<T> {
    None
}

impl<T> Rotating<T> {
    /// The first of its kind.
    #[must_use]
    pub const fn new(current: T) -> Self {
        Self {
            current,
            next: None,
            previous: None,
        }
    }

    /// Everything that is to be trusted, what is in use first.
    pub fn trusted(&self) -> impl Iterator<Item = &T> {
        std::iter::once(&self.current)
            .chain(&self.next)
            .chain(&self.previous)
    }

    /// How far a rotation is.
    #[must_use]
    pub const fn step(&self) -> Step {
        match (&self.next, &self.previous) {
            (Some(_), _) => Step::Staged,
            (None, Some(_)) => Step::Promoted,
            (None, None) => Step::Steady,
        }
    }

    /// First step: a successor is trusted.
    ///
    /// # Errors
    /// [`OutOfStep`] while another rotation is under way; nothing is changed then.
    pub fn stage(&mut self, next: T) -> Result<(), OutOfStep> {
        self.expect(Step::Steady, "staged")?;
        self.next = Some(next);
        Ok(())
    }

    /// Second step: the successor is used.
    ///
    /// # Errors
    /// [`OutOfStep`] where none was staged; nothing is changed then.
    pub fn promote(&mut self) -> Result<(), OutOfStep> {
        self.expect(Step::Staged, "promoted")?;
        if let Some(next) = self.next.take() {
            self.previous = Some(std::mem::replace(&mut self.current, next));
        }
        Ok(())
    }

    /// Last step: the predecessor is trusted no more. Gives it away.
    ///
    /// # Errors
    /// [`OutOfStep`] where none was promoted; nothing is changed then.
    pub fn retire(&mut self) -> Result<Option<T>, OutOfStep> {
        self.expect(Step::Promoted, "retired")?;
        Ok(self.previous.take())
    }

    fn expect(&self, step: Step, wanted: &'static str) -> Result<(), OutOfStep> {
        let found = self.step();
        if found == step {
            Ok(())
        } else {
            Err(OutOfStep { found, wanted })
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, Copy)]
    enum Move {
        Stage,
        Promote,
        Retire,
    }

    #[test]
    fn three_steps_lead_from_one_to_the_next() {
        let mut one = Rotating::new(1);
        assert_eq!(one.promote().unwrap_err().found, Step::Steady);
        one.stage(2).unwrap();
        assert_eq!(
            (one.current, one.trusted().copied().collect::<Vec<_>>()),
            (1, vec![1, 2])
        );
        one.stage(3).unwrap_err();
        one.retire().unwrap_err();
        one.promote().unwrap();
        assert_eq!(
            (one.current, one.trusted().copied().collect::<Vec<_>>()),
            (2, vec![2, 1])
        );
        assert_eq!(one.retire().unwrap(), Some(1));
        assert_eq!(one, Rotating::new(2));
    }

    proptest! {
        /// Whoever trusts what one step trusted, trusts what the next step uses: no order of calls breaks that.
        #[test]
        fn what_is_used_was_trusted_a_step_before(
            moves in proptest::collection::vec(prop_oneof![Just(Move::Stage), Just(Move::Promote), Just(Move::Retire)], 0..20),
        ) {
            let mut rotating = Rotating::new(0);
            for (made, step) in (1..).zip(moves) {
                let before = rotating.clone();
                let moved = match step {
                    Move::Stage => rotating.stage(made),
                    Move::Promote => rotating.promote(),
                    Move::Retire => rotating.retire().map(drop),
                };
                prop_assert!(before.trusted().any(|t| *t == rotating.current));
                prop_assert!(rotating.trusted().any(|t| *t == before.current) || before.step() == Step::Promoted);
                prop_assert_eq!(moved.is_err(), rotating == before);
                prop_assert!(rotating.trusted().count() <= 2);
            }
        }
    }
}
