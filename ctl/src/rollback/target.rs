//! Which release a rollback goes back to. Pure.

use shared::names::ReleaseNumber;
use shared::trust::ReleaseTarget;

use crate::exit::mistake;

/// The release that was asked for; else the good one; else, where that is the current one, the one before it.
///
/// A current release that is a rollback itself is not gone back from without being told where to: two operators who both
/// mend the same thing would put it back.
pub(super) fn choose(
    current: &ReleaseTarget,
    good: Option<&ReleaseTarget>,
    asked: Option<ReleaseNumber>,
) -> anyhow::Result<ReleaseNumber> {
    let (group, number) = (&current.custom.group, current.release());
    if let Some(asked) = asked {
        return match asked == number {
            true => Err(mistake(format!(
                "release {number} of group {group} is the current one"
            ))),
            false => Ok(asked),
        };
    }
    let history = format!("`platformctl history {group}` lists them, and --to N takes one");
    if let Some(back) = current.custom.brings_back {
        return Err(mistake(format!(
            "release {number} of group {group} is itself a rollback, to release {back}: say which release to go back to; \
             {history}"
        )));
    }
    let good = good.map(ReleaseTarget::release).filter(|n| *n != number);
    good.or(current.custom.replaces).ok_or_else(|| {
        mistake(format!(
            "nothing says which release was before release {number} of group {group}; {history}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::testing::{n, target};

    fn chosen(current: &ReleaseTarget, good: u64, asked: Option<u64>) -> Result<u64, String> {
        let good = target(good, None);
        let found = choose(current, Some(&good), asked.map(n));
        found.map(ReleaseNumber::get).map_err(|e| e.to_string())
    }

    #[test]
    fn the_good_one_and_else_the_one_before() {
        let current = target(7, Some(6));
        assert_eq!(chosen(&current, 4, None), Ok(4));
        assert_eq!(chosen(&current, 7, None), Ok(6));
        assert_eq!(chosen(&current, 4, Some(2)), Ok(2));
        assert!(
            chosen(&current, 4, Some(7))
                .unwrap_err()
                .contains("current")
        );
        let first = target(1, None);
        assert!(chosen(&first, 1, None).unwrap_err().contains("--to"));
    }

    #[test]
    fn two_operators_do_not_undo_each_other() {
        let mut current = target(8, Some(7));
        current.custom.brings_back = Some(n(6));
        for good in [6, 8] {
            let told = chosen(&current, good, None).unwrap_err();
            assert!(told.contains("to release 6"), "{told}");
        }
        assert_eq!(chosen(&current, 8, Some(7)), Ok(7));
    }
}
