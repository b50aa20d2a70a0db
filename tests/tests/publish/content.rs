//! What a publish puts into the bucket, and when it puts nothing there.

use ctl::diff::published_release;
use ctl::publish::{Choices, plan};
use ctl::release::prepare;
use ctl::render::secret_dirs;
use jiff::Timestamp;
use platform_tests::workspace::{Bucket, Operator, carry_out, group, refresh_as_node};
use shared::bundle::{FileEntry, open, unpack};
use shared::digest::Sha256Digest;
use shared::names::EntryPath;
use shared::store::{Fetched, keys};
use shared::wrap::WrapContext;
use shared::{bundle::Release, limits};
use tempfile::TempDir;

use super::{number, released, told, unchanged};

fn manifest(release: &Release, name: &str) -> String {
    let path = EntryPath::new(format!("manifests/{name}")).unwrap();
    String::from_utf8(release.bytes(&path).unwrap().expose().to_vec()).unwrap()
}

#[tokio::test]
async fn the_first_publish_is_verified_opened_and_equal() {
    let bucket = Bucket::start().await.unwrap();
    let operator = Operator::new(&bucket.endpoint()).await.unwrap();
    let done = operator.publish().await.unwrap();
    let keyring = operator.keyring().await.unwrap();
    for name in ["secure", "compute"] {
        assert_eq!(released(done.get(name)), 1);
        let group = group(name);
        let node = TempDir::new().unwrap();
        let root = operator.root(&group).await.unwrap();
        let trusted = refresh_as_node(&operator.context, &group, &root, node.path())
            .await
            .unwrap();
        let target = trusted.current().unwrap();
        assert_eq!(target.release(), number(1));
        assert_eq!(trusted.good(), Some(target), "nothing else is listed");
        target
            .belongs_to(&operator.context.workspace.name, &group)
            .unwrap();
        assert_eq!(target.custom.keyring, keyring.mark);

        let key = keys::target(&group, &target.sha256, &target.name);
        let store = &operator.context.store;
        let Fetched::Object { bytes, .. } = store.get(&key, target.length, None).await.unwrap()
        else {
            panic!("an object");
        };
        assert_eq!(Sha256Digest::of(&bytes), target.sha256);
        let context = WrapContext {
            environment: operator.context.workspace.name.clone(),
            group: name.to_owned(),
            release: 1,
        };
        let wrap = &operator.context.wrap;
        let identity = wrap
            .unwrap(&target.custom.identity, &context)
            .await
            .unwrap();
        let packed = open(&bytes, &identity, limits::BUNDLE_BYTES).unwrap();
        let release = unpack(packed.expose()).unwrap();

        let workspace = &operator.context.workspace;
        let known = Some(&keyring.content);
        let (content, _) = prepare(workspace, &group, known, Timestamp::now()).unwrap();
        assert_eq!(release, content.number(number(1)).unwrap());
        assert!(!content.has_no_manifest());
        let other = WrapContext {
            group: "elsewhere".to_owned(),
            ..context
        };
        wrap.unwrap(&target.custom.identity, &other)
            .await
            .expect_err("bound to its group");
    }
    let metadata = |k: &&String| k.contains("/metadata/");
    let keys = bucket.keys();
    assert_eq!(keys.iter().filter(metadata).count(), 2 * 4, "{keys:?}");
    assert_eq!(
        keys.len(),
        2 * 5 + 1,
        "and a bundle a group, and the keyring: {keys:?}"
    );
}

#[tokio::test]
async fn a_publish_of_nothing_new_writes_nothing_and_asks_little() {
    let bucket = Bucket::start().await.unwrap();
    let operator = Operator::new(&bucket.endpoint()).await.unwrap();
    operator.publish().await.unwrap();
    for round in 0..2 {
        let before = bucket.requests();
        let done = operator.publish().await.unwrap();
        let asked = bucket.requests().since(&before);
        assert!(done.values().all(|p| unchanged(Some(p))), "{done:?}");
        assert_eq!(asked.of("PutObject"), 0);
        assert!(asked.total <= 5, "round {round}: {asked:?}");
    }
    // A machine that has never seen the bucket finds the same, from the content alone.
    let colleague = operator.colleague(&bucket.endpoint()).await.unwrap();
    let before = bucket.requests();
    let done = colleague.publish().await.unwrap();
    assert!(done.values().all(|p| unchanged(Some(p))), "{done:?}");
    assert_eq!(bucket.requests().since(&before).of("PutObject"), 0);
}

#[tokio::test]
async fn a_changed_secret_is_a_release_that_names_a_new_directory() {
    let bucket = Bucket::start().await.unwrap();
    let operator = Operator::new(&bucket.endpoint()).await.unwrap();
    operator.publish().await.unwrap();
    let secure = group("secure");
    let published = |n: u64| {
        let (operator, secure) = (&operator, &secure);
        async move {
            let published = operator.published(secure).await.unwrap();
            let current = published.current().unwrap();
            assert_eq!(current.release(), number(n));
            published_release(&operator.context, current).await.unwrap()
        }
    };
    let dirs = async || secret_dirs(&operator.render_input(&secure).await.unwrap());
    let (first, old) = (published(1).await, dirs().await);
    operator
        .write_secret(
            "secure/kube-apiserver/audit-policy.yaml",
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n  - level: Request\n",
        )
        .unwrap();
    let done = operator.publish().await.unwrap();
    assert_eq!(released(done.get("secure")), 2);
    assert!(unchanged(done.get("compute")), "{done:?}");
    let (second, new) = (published(2).await, dirs().await);
    assert_ne!(old["kube-apiserver"], new["kube-apiserver"]);
    let path = |digest: &str| format!("/etc/kubernetes/secrets/kube-apiserver/{digest}\"");
    let name = "kube-apiserver.yaml";
    assert!(manifest(&first, name).contains(&path(&old["kube-apiserver"])));
    assert!(manifest(&second, name).contains(&path(&new["kube-apiserver"])));
    for untouched in [
        "etcd.yaml",
        "kube-scheduler.yaml",
        "kube-controller-manager.yaml",
    ] {
        assert_eq!(manifest(&first, untouched), manifest(&second, untouched));
    }
}

#[tokio::test]
async fn host_files_come_before_manifests_and_say_which_unit_reads_them() {
    let bucket = Bucket::start().await.unwrap();
    let operator = Operator::new(&bucket.endpoint()).await.unwrap();
    operator.publish().await.unwrap();
    let secure = group("secure");
    let current = operator.published(&secure).await.unwrap();
    let release = published_release(&operator.context, current.current().unwrap())
        .await
        .unwrap();
    let index = release.index();
    let config = EntryPath::new("host/kubelet/config.yaml").unwrap();
    let restart = index.restarts.iter().find(|r| r.on.contains(&config));
    assert_eq!(restart.unwrap().unit.as_str(), "kubelet.service");
    let at = |prefix: &str| {
        let files = &index.files;
        let found = |f: &&FileEntry| f.path.as_str().starts_with(prefix);
        files.iter().position(|f| found(&f)).unwrap()
    };
    assert!(at("secrets/addons_objects/") < at("manifests/"));
    assert!(at("host/") < at("manifests/"));

    let text = "restarts:\n  - {unit: kubelet.service, on: [host/kubelt]}\n";
    std::fs::write(operator.path("manifests/secure/node.yaml"), text).unwrap();
    let error = operator.publish().await.unwrap_err();
    let said = format!("{error:#}");
    assert!(
        said.contains("secure/node.yaml: restarts[0].on[0]"),
        "{said}"
    );
    assert_eq!(
        format!("{:?}", ctl::exit::code_of(&error)),
        format!("{:?}", std::process::ExitCode::from(2))
    );
}

#[tokio::test]
async fn a_mistake_in_the_last_group_keeps_the_first_unpublished() {
    let bucket = Bucket::start().await.unwrap();
    let operator = Operator::new(&bucket.endpoint()).await.unwrap();
    operator
        .amend(
            "compute/kube-proxy.yaml.j2",
            "hostNetwork: true",
            "hostNetwerk: true",
        )
        .unwrap();
    let error = operator.publish().await.unwrap_err();
    assert!(told(&error).contains("hostNetwerk"), "{error:#}");
    assert_eq!(bucket.keys(), Vec::<String>::new());
}

#[tokio::test]
async fn a_group_that_would_run_nothing_is_asked_about_first() {
    let bucket = Bucket::start().await.unwrap();
    let operator = Operator::new(&bucket.endpoint()).await.unwrap();
    operator.publish().await.unwrap();
    operator
        .amend(
            "secure/kube-controller-manager.yaml.j2",
            "--terminated-pod-gc-threshold=1000",
            "--terminated-pod-gc-threshold=20000",
        )
        .unwrap();
    std::fs::remove_file(operator.path("manifests/compute/kube-proxy.yaml.j2")).unwrap();
    let before = bucket.requests();
    let error = operator.publish().await.unwrap_err();
    assert!(told(&error).contains("--allow-empty"), "{error:#}");
    // Not even the group before it, whose files are right.
    assert_eq!(bucket.requests().since(&before).of("PutObject"), 0);

    let meant = Choices {
        allow_empty: true,
        ..Choices::default()
    };
    let plans = plan(&operator.context, &operator.context.workspace.groups, meant)
        .await
        .unwrap();
    let done = carry_out(&operator, plans).await.unwrap();
    assert_eq!(
        (released(done.get("secure")), released(done.get("compute"))),
        (2, 2)
    );
}
