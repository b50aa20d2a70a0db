//! Two operators at once: one wins, and the other is told by whom it was beaten.

use ctl::publish::PublishRace;
use platform_tests::workspace::{Bucket, Operator, carry_out, group, refresh_as_node};
use tempfile::TempDir;

use super::{released, told};

const COUNT: &str = "--terminated-pod-gc-threshold=";

#[tokio::test]
async fn of_two_publishes_at_once_exactly_one_wins() {
    let bucket = Bucket::start().await.unwrap();
    let ann = Operator::new(&bucket.endpoint()).await.unwrap();
    ann.publish().await.unwrap();
    let bob = ann.colleague(&bucket.endpoint()).await.unwrap();
    let secure = group("secure");
    let root = ann.root(&secure).await.unwrap();
    let node = TempDir::new().unwrap();
    let mut last = 1;
    let counts = |operator: &Operator, from: u64, to: u64| {
        let (from, to) = (format!("{COUNT}{from}"), format!("{COUNT}{to}"));
        operator
            .amend("secure/kube-controller-manager.yaml.j2", &from, &to)
            .unwrap();
    };
    let (mut in_ann, mut in_bob) = (1_000, 1_000);
    for round in 1..=4 {
        let (for_ann, for_bob) = (20_000 + round, 30_000 + round);
        counts(&ann, in_ann, for_ann);
        counts(&bob, in_bob, for_bob);
        (in_ann, in_bob) = (for_ann, for_bob);
        // Both have looked before either writes.
        let (for_ann, for_bob) = (ann.plan().await.unwrap(), bob.plan().await.unwrap());
        let (a, b) = tokio::join!(carry_out(&ann, for_ann), carry_out(&bob, for_bob));
        let (won, lost, loser) = match (a, b) {
            (Ok(won), Err(lost)) => (won, lost, &bob),
            (Err(lost), Ok(won)) => (won, lost, &ann),
            (a, b) => panic!("round {round}: one wins, not {a:?} and {b:?}"),
        };
        assert!(lost.is::<PublishRace>(), "{lost:?}");
        let number = released(won.get("secure"));
        let trusted = refresh_as_node(&ann.context, &secure, &root, node.path())
            .await
            .unwrap();
        let current = trusted.current().unwrap();
        assert_eq!(
            current.release().get(),
            number,
            "what is visible is the winner's"
        );
        let winner = format!("release {number} by {} at ", current.custom.published_by);
        assert!(told(&lost).contains(&winner), "{lost:#}");
        assert!(number > last);

        // Nothing of the loser's stands in its way.
        let done = loser.publish().await.unwrap();
        last = released(done.get("secure"));
        assert!(last > number);
    }
}

#[tokio::test]
async fn of_two_first_publishes_at_once_exactly_one_wins() {
    let bucket = Bucket::start().await.unwrap();
    let ann = Operator::new(&bucket.endpoint()).await.unwrap();
    let bob = ann.colleague(&bucket.endpoint()).await.unwrap();
    let (for_ann, for_bob) = (ann.plan().await.unwrap(), bob.plan().await.unwrap());
    let (a, b) = tokio::join!(carry_out(&ann, for_ann), carry_out(&bob, for_bob));
    assert!(a.is_ok() != b.is_ok(), "{a:?} {b:?}");
    let lost = a.err().or(b.err()).unwrap();
    assert!(lost.is::<PublishRace>(), "{lost:?}");
    // Both had the same files, so there is nothing left for the loser to do in the group that was lost.
    ann.publish().await.unwrap();
    bob.publish().await.unwrap();
}
