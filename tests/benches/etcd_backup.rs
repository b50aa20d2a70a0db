//! How long a backup of etcd takes, and making a member's data from it, for 100 MiB and 1,024 MiB of random values in a real etcd.
//! `BENCH_MIB` names other sizes (`100`).

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use agent::clock::SystemClock;
use agent::etcd::{BackupContext, Restore, RestoreAs};
use agent::status::NodeIdentity;
use anyhow::{Context as _, ensure};
use jiff::Timestamp;
use platform_tests::etcd::{Certificates, MemberSpec, RunningMember};
use platform_tests::measure::knob;
use platform_tests::measure::report::{Table, head};
use platform_tests::tools;
use platform_tests::workspace::{Bucket, Operator};
use rand::RngCore as _;
use shared::backup::{BackupSettings, RestoreOrder, recipient_of};
use shared::bundle::new_identity;
use shared::documents::GroupKey;
use tempfile::TempDir;

const MIB: usize = 1024 * 1024;

fn fill(member: &RunningMember, certificates: &Certificates, mib: usize) -> anyhow::Result<()> {
    let etcdctl = tools::find("etcdctl").context("etcdctl")?;
    let own = |name: &str| {
        certificates
            .file("kube-apiserver", name)
            .display()
            .to_string()
    };
    let mut value = vec![0; MIB];
    for n in 0..mib {
        rand::rng().fill_bytes(&mut value);
        let mut child = Command::new(&etcdctl)
            .arg(format!("--endpoints={}", member.spec.client_url()))
            .arg(format!("--cacert={}", own("etcd-ca.crt")))
            .arg(format!("--cert={}", own("etcd-client.crt")))
            .arg(format!("--key={}", own("etcd-client.key")))
            .args(["put", &format!("/registry/fill/{n}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        let mut input = child.stdin.take().context("a pipe")?;
        std::io::Write::write_all(&mut input, &value)?;
        drop(input);
        ensure!(child.wait()?.success(), "put {n}");
    }
    Ok(())
}

/// The largest resident size of this process so far, in MiB: store, client and bench together.
fn peak() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"));
    let kib = line.and_then(|l| l.split_whitespace().nth(1));
    Ok(kib.context("VmHWM")?.parse::<u64>()? / 1024)
}

async fn measure(mib: usize, etcd: &Path, etcdutl: &Path) -> anyhow::Result<[String; 6]> {
    let bucket = Bucket::start().await?;
    let operator = Operator::new(&bucket.endpoint()).await?;
    let home = TempDir::new()?;
    let certificates = Certificates::fresh(home.path())?;
    let spec = MemberSpec::new_cluster(home.path(), 1, "local-1")?.remove(0);
    let spec = MemberSpec {
        flags: vec!["--quota-backend-bytes=8589934592".to_owned()],
        ..spec
    };
    let member = spec.start(etcd, &certificates)?;
    let client = member.serves(&certificates).await?;
    fill(&member, &certificates, mib)?;
    let identity = new_identity();
    let context = BackupContext {
        store: operator.context.store.clone(),
        identity: NodeIdentity {
            environment: "local".parse()?,
            group: "secure".parse()?,
            node: "i-1".parse()?,
        },
        group_key: GroupKey::generate(),
        settings: BackupSettings::usual(1, vec![recipient_of(&identity)?], Vec::new()),
        release: None,
        restores: None,
        client,
        clock: Arc::new(SystemClock),
    };
    let before = peak()?;
    let began = Instant::now();
    let backup = context.take().await?;
    let took = began.elapsed();
    let after = peak()?;
    drop(member);
    let new = MemberSpec::new_cluster(home.path(), 1, "local-2")?.remove(0);
    let new = MemberSpec {
        data: home.path().join("new"),
        ..new
    };
    let restore = Restore {
        store: operator.context.store.clone(),
        order: RestoreOrder {
            generation: 2,
            backup: backup.clone(),
            by: "bench".to_owned(),
            at: Timestamp::now(),
        },
        identity,
        member: RestoreAs {
            name: new.name.clone(),
            peer_url: new.peer_url(),
            members: vec![(new.name.clone(), new.peer_url())],
            token: new.token.clone(),
        },
        data: new.data.clone(),
        etcdutl: Some(etcdutl.to_owned()),
    };
    let began = Instant::now();
    restore.run().await?;
    let restored = began.elapsed();
    let member = new.start(etcd, &certificates)?;
    member.serves(&certificates).await?;
    let serving = began.elapsed();
    Ok([
        format!("{mib} MiB"),
        format!(
            "{} MiB in {} parts",
            backup.plain_bytes / MIB as u64,
            backup.parts.len()
        ),
        format!("{:.1} s", took.as_secs_f64()),
        format!("{before} → {after} MiB"),
        format!("{:.1} s", restored.as_secs_f64()),
        format!("{:.1} s", serving.as_secs_f64()),
    ])
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (Some(etcd), Some(etcdutl)) = (tools::find("etcd"), tools::find("etcdutl")) else {
        return Ok(());
    };
    head(
        "etcd_backup",
        "a backup of etcd 3.5, and a member made from it",
        &std::env::temp_dir(),
    );
    let mut table = Table::new(&[
        "values",
        "snapshot",
        "backup",
        "peak of bench and store",
        "restore",
        "until it serves",
    ]);
    let sizes: String = knob("BENCH_MIB", "100,1024".to_owned());
    for size in sizes.split(',') {
        let mib = size
            .trim()
            .parse()
            .context("BENCH_MIB: sizes with commas between")?;
        let row = measure(mib, &etcd, &etcdutl).await?;
        table.row(&row.each_ref().map(String::as_str));
    }
    table.print();
    Ok(())
}
