//! When a backup is due, whose turn it is, and which ones may go. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::{BackupName, BackupSettings};

/// Where a member stands among its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is the leader.
    Leader,
    /// It is not, and so many members with a vote have a lower number than it has.
    Follower {
        /// How many.
        rank: u32,
    },
    /// It has no vote yet: what it has may be half of it.
    Learner,
    /// It knows no leader, or something is wrong with its data: what it has may be old, or no good.
    Unfit,
}

/// Whether a member is to take a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Now.
    Now,
    /// Not before then, unless another takes one.
    At(Timestamp),
    /// Never, as it stands.
    Never,
}

/// Whether it is the turn of a member, where the last good backup was begun at `last`.
///
/// The leader takes one when the period is over. Where it does not (its agent is held, or gone), the
/// others step in one after another, each a quarter of a period later than the one before: two at once are a waste, not a
/// fault. A time that lies in the future by more than a period is not gone by.
#[must_use]
pub fn due(
    settings: &BackupSettings,
    standing: Standing,
    last: Option<Timestamp>,
    now: Timestamp,
) -> Due {
    let period = SignedDuration::try_from(settings.period.get()).unwrap_or(SignedDuration::MAX);
    let late = match standing {
        Standing::Learner | Standing::Unfit => return Due::Never,
        Standing::Leader => SignedDuration::ZERO,
        Standing::Follower { rank } => {
            let quarters = i32::try_from(rank.saturating_add(1)).unwrap_or(i32::MAX);
            (period / 4).saturating_mul(quarters)
        }
    };
    let last = last.filter(|last| now.duration_since(*last) > -period);
    // Without any, the leader begins at once; the others have nothing to count from but the epoch.
    let base = last.unwrap_or(Timestamp::UNIX_EPOCH);
    let at = base
        .checked_add(period)
        .and_then(|at| at.checked_add(late))
        .unwrap_or(Timestamp::MAX);
    match at <= now {
        true => Due::Now,
        false => Due::At(at),
    }
}

/// Which of `names` are kept (§10.3): all that are young enough, of each day (in UTC) the last one, and the newest in any case.
#[must_use]
pub fn kept<'a>(
    settings: &BackupSettings,
    names: impl IntoIterator<Item = &'a BackupName>,
    now: Timestamp,
) -> BTreeSet<&'a BackupName> {
    let span = |s: std::time::Duration| SignedDuration::try_from(s).unwrap_or(SignedDuration::MAX);
    let (all, daily) = (
        span(settings.keep_all.get()),
        span(settings.keep_daily.get()),
    );
    let age = |name: &BackupName| now.duration_since(name.at());
    let names: BTreeSet<&BackupName> = names.into_iter().collect();
    let mut days: BTreeMap<i64, &BackupName> = BTreeMap::new();
    for name in &names {
        // In the order of time: the last of a day stays.
        days.insert(name.at().as_second().div_euclid(86_400), name);
    }
    let last_of_day: BTreeSet<&BackupName> = days.into_values().collect();
    let newest = names.last().copied();
    let stays = |name: &&BackupName| {
        Some(*name) == newest
            || age(name) <= all
            || (age(name) <= daily && last_of_day.contains(*name))
    };
    names.iter().copied().filter(stays).collect()
}

/// Until when the backup `name` among `names` is kept if others go on being made; none for the newest, which stays until
/// there is a newer one.
#[must_use]
pub fn kept_until<'a>(
    settings: &BackupSettings,
    names: impl IntoIterator<Item = &'a BackupName>,
    name: &BackupName,
) -> Option<Timestamp> {
    let day = |n: &BackupName| n.at().as_second().div_euclid(86_400);
    let later: Vec<&BackupName> = names.into_iter().filter(|n| *n > name).collect();
    if later.is_empty() {
        return None;
    }
    let (all, daily) = (settings.keep_all.get(), settings.keep_daily.get());
    let stays = match later.iter().any(|n| day(n) == day(name)) {
        true => all,
        false => daily.max(all),
    };
    let stays = SignedDuration::try_from(stays).unwrap_or(SignedDuration::MAX);
    Some(name.at().checked_add(stays).unwrap_or(Timestamp::MAX))
}

/// Which of `names` may go, the oldest first. Nothing may where the newest is not `good`, the backup that was just made: so
/// nothing is ever removed on the ground of a backup that might be none.
#[must_use]
pub fn superfluous<'a>(
    settings: &BackupSettings,
    names: &'a BTreeSet<BackupName>,
    good: &BackupName,
    now: Timestamp,
) -> Vec<&'a BackupName> {
    if names.last() != Some(good) {
        return Vec::new();
    }
    let kept = kept(settings, names, now);
    names.iter().filter(|n| !kept.contains(n)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn settings() -> BackupSettings {
        BackupSettings::usual(1, vec!["age1".to_owned()], Vec::new())
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    const HOUR: i64 = 3600;
    const NOW: i64 = 1_800_000_000;

    #[test]
    fn the_leader_first_and_the_others_one_after_another() {
        let due = |standing, ago| due(&settings(), standing, Some(at(NOW - ago)), at(NOW));
        assert_eq!(due(Standing::Leader, HOUR - 1), Due::At(at(NOW + 1)));
        assert_eq!(due(Standing::Leader, HOUR), Due::Now);
        let first = Standing::Follower { rank: 0 };
        assert_eq!(due(first, HOUR), Due::At(at(NOW + HOUR / 4)));
        assert_eq!(due(first, HOUR + HOUR / 4), Due::Now);
        let third = Standing::Follower { rank: 2 };
        assert_eq!(due(third, HOUR + HOUR / 4), Due::At(at(NOW + HOUR / 2)));
        assert_eq!(due(third, 2 * HOUR), Due::Now);
        assert_eq!(due(Standing::Learner, 100 * HOUR), Due::Never);
        assert_eq!(due(Standing::Unfit, 100 * HOUR), Due::Never);
        // A clock that was ahead must not keep backups away for ever.
        assert_eq!(due(Standing::Leader, -2 * HOUR), Due::Now);
        let far = Standing::Follower { rank: u32::MAX };
        assert!(matches!(due(far, HOUR), Due::At(_)));
        let none = super::due(&settings(), Standing::Leader, None, at(NOW));
        assert_eq!(none, Due::Now);
    }

    #[test]
    fn a_day_whole_and_a_month_by_days() {
        let names: BTreeSet<BackupName> = (0..24 * 60)
            .map(|hour| BackupName::new(at(NOW - hour * HOUR), 1))
            .collect();
        let kept = kept(&settings(), &names, at(NOW));
        let young = kept.iter().filter(|n| n.at() >= at(NOW - 24 * HOUR));
        assert_eq!(young.count(), 25);
        assert!((25 + 28..=25 + 30).contains(&kept.len()), "{}", kept.len());
        let oldest = kept.first().unwrap();
        assert!(oldest.at() >= at(NOW - 30 * 24 * HOUR), "{oldest}");
    }

    #[test]
    fn nothing_goes_unless_the_newest_is_the_good_one() {
        let names: BTreeSet<BackupName> = [0, 40, 50]
            .map(|days| BackupName::new(at(NOW - days * 24 * HOUR), 1))
            .into();
        let newest = names.last().unwrap();
        let gone = superfluous(&settings(), &names, newest, at(NOW));
        assert_eq!(gone.len(), 2);
        let other = names.first().unwrap();
        assert!(superfluous(&settings(), &names, other, at(NOW)).is_empty());
    }

    proptest! {
        /// Whatever there is: the newest stays, all of the last day stay, and of each day within the month one stays.
        #[test]
        fn what_must_stay_stays(ages in prop::collection::btree_set(0_i64..90 * 86_400, 1..80)) {
            let names: BTreeSet<BackupName> =
                ages.iter().map(|age| BackupName::new(at(NOW - age), 1)).collect();
            let all = settings();
            let kept = kept(&all, &names, at(NOW));
            prop_assert!(kept.contains(names.last().unwrap()));
            for name in &names {
                let age = NOW - name.at().as_second();
                prop_assert!(age > 86_400 || kept.contains(name));
                let day = name.at().as_second().div_euclid(86_400);
                let later_that_day = names.iter().any(|o| o > name && o.at().as_second().div_euclid(86_400) == day);
                prop_assert!(age > 30 * 86_400 || later_that_day || kept.contains(name));
                prop_assert!(age <= 30 * 86_400 || !kept.contains(name) || Some(name) == names.last());
                let until = kept_until(&all, &names, name);
                prop_assert_eq!(until.is_none(), Some(name) == names.last());
                prop_assert_eq!(kept.contains(name), until.is_none_or(|until| at(NOW) <= until));
            }
        }
    }
}
