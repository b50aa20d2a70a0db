//! Machines with addresses of their own: network namespaces on one bridge, with a name server that knows each machine by its
//! name and nothing by its address, as a VPC without reverse zones.
//!
//! What is made is named after this process and removed when the value is dropped; what a killed test left is removed by the
//! next one.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, bail, ensure};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;

use crate::tools;

/// What all names begin with; this process's number and a dash or a letter follow.
const PREFIX: &str = "ptns";
/// The domain of machines in the region that tests are in, which the platform's certificates have.
const DOMAIN: &str = "ec2.internal";
/// Files that `ip netns exec` lays over those of `/etc`.
const OVERLAYS: &str = "/etc/netns";

static NUMBER: AtomicU32 = AtomicU32::new(0);

type Names = Arc<Mutex<HashMap<String, Ipv4Addr>>>;

/// A bridge with machines on it.
#[derive(Debug)]
pub struct Network {
    tag: String,
    net: [u8; 3],
    spaces: u8,
    names: Names,
    reverse: Arc<AtomicU32>,
    store: SocketAddr,
    tasks: Vec<JoinHandle<()>>,
}

/// One machine's network.
#[derive(Debug, Clone)]
pub struct Space {
    /// The namespace.
    pub name: String,
    /// Its end of the cable on the bridge.
    cable: String,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Its DNS name.
    pub host: String,
}

fn ip(arguments: &str) -> anyhow::Result<String> {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .context("ip cannot be started")?;
    ensure!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Removes what tests that were killed have left.
fn sweep() {
    let dead = |name: &str| {
        let number = name.strip_prefix(PREFIX)?;
        let number: String = number.chars().take_while(char::is_ascii_digit).collect();
        (!number.is_empty() && !Path::new("/proc").join(&number).exists()).then_some(())
    };
    for line in ip("netns list").unwrap_or_default().lines() {
        let name = line.split(' ').next().unwrap_or_default();
        if dead(name).is_some() {
            remove_space(name);
        }
    }
    for line in ip("-o link show type bridge").unwrap_or_default().lines() {
        let name = line.split(": ").nth(1).unwrap_or_default();
        if dead(name).is_some() {
            let _ = ip(&format!("link del {name}"));
        }
    }
}

fn remove_space(name: &str) {
    // A namespace lives on while a process in it does; without its cable that reaches nobody.
    let _ = ip(&format!("link del {name}"));
    let _ = ip(&format!("netns del {name}"));
    let _ = std::fs::remove_dir_all(Path::new(OVERLAYS).join(name));
    let _ = std::fs::remove_dir(OVERLAYS);
}

// === impl Network ===

impl Network {
    /// Makes the bridge, the name server, and a way to the store on this machine's loopback; none where that is not permitted,
    /// which is said.
    ///
    /// # Errors
    /// What the system says, though it permits it.
    pub async fn lay(store: SocketAddr) -> anyhow::Result<Option<Self>> {
        sweep();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let tag = format!("{PREFIX}{}{}", std::process::id(), letter(number)?);
        let probe = format!("{tag}p");
        if let Err(error) = ip(&format!("netns add {probe}")) {
            tools::not_permitted(&format!("network namespaces cannot be made: {error:#}"));
            return Ok(None);
        }
        remove_space(&probe);
        let net = free_net()?;
        let [a, b, c] = net;
        let gateway = Ipv4Addr::new(a, b, c, 1);
        let mut network = Self {
            tag,
            net,
            spaces: 0,
            names: Names::default(),
            reverse: Arc::default(),
            store,
            tasks: Vec::new(),
        };
        let bridge = network.bridge();
        ip(&format!("link add {bridge} type bridge"))?;
        ip(&format!("addr add {gateway}/24 dev {bridge}"))?;
        ip(&format!("link set {bridge} up"))?;
        let socket = UdpSocket::bind((gateway, 53)).await.context("port 53")?;
        let (names, reverse) = (Arc::clone(&network.names), Arc::clone(&network.reverse));
        let server = tokio::spawn(async move {
            let mut query = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut query).await {
                if let Some(answer) = answer(&query[..length], &names, &reverse) {
                    let _ = socket.send_to(&answer, from).await;
                }
            }
        });
        network.tasks.push(server);
        let listener = TcpListener::bind((gateway, 0)).await?;
        network.store = listener.local_addr()?;
        network.tasks.push(tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                tokio::spawn(async move {
                    if let Ok(mut to) = TcpStream::connect(store).await {
                        let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                    }
                });
            }
        }));
        Ok(Some(network))
    }

    fn bridge(&self) -> String {
        format!("{}b", self.tag)
    }

    /// The store as machines reach it.
    #[must_use]
    pub fn store(&self) -> String {
        format!("http://{}", self.store)
    }

    /// How often somebody asked for the name of an address; nobody was told one.
    #[must_use]
    pub fn reverse_lookups(&self) -> u32 {
        self.reverse.load(Ordering::Relaxed)
    }

    /// One more machine.
    ///
    /// # Errors
    /// What the system says.
    pub fn space(&mut self) -> anyhow::Result<Space> {
        let [a, b, c] = self.net;
        let last = 11 + self.spaces;
        let address = Ipv4Addr::new(a, b, c, last);
        let space = Space {
            name: format!("{}{}", self.tag, self.spaces),
            cable: format!("{}{}", self.tag, self.spaces),
            ip: address,
            host: format!("ip-{a}-{b}-{c}-{last}.{DOMAIN}"),
        };
        self.spaces += 1;
        let (name, cable) = (&space.name, &space.cable);
        let overlay = Path::new(OVERLAYS).join(name);
        std::fs::create_dir_all(&overlay)?;
        let server = format!("nameserver {a}.{b}.{c}.1\noptions timeout:1 attempts:2\n");
        std::fs::write(overlay.join("resolv.conf"), server)?;
        // No machine is in it: Go looks there for names of addresses too.
        std::fs::write(overlay.join("hosts"), "127.0.0.1 localhost\n")?;
        ip(&format!("netns add {name}"))?;
        ip(&format!(
            "link add {cable} type veth peer name eth0 netns {name}"
        ))?;
        ip(&format!("link set {cable} master {} up", self.bridge()))?;
        ip(&format!("-n {name} addr add {address}/24 dev eth0"))?;
        ip(&format!("-n {name} link set eth0 up"))?;
        ip(&format!("-n {name} link set lo up"))?;
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.insert(space.host.clone(), address);
        Ok(space)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        for n in 0..self.spaces {
            remove_space(&format!("{}{n}", self.tag));
        }
        let _ = ip(&format!("link del {}", self.bridge()));
    }
}

// === impl Space ===

impl Space {
    /// What runs a program there and becomes it.
    #[must_use]
    pub fn through(&self) -> Vec<String> {
        ["ip", "netns", "exec", &self.name]
            .map(str::to_owned)
            .to_vec()
    }

    /// A program in it.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Takes the cable out.
    ///
    /// # Errors
    /// What the system says.
    pub fn cut(&self) -> anyhow::Result<()> {
        ip(&format!("link set {} down", self.cable)).map(drop)
    }

    /// Puts the cable in again.
    ///
    /// # Errors
    /// What the system says.
    pub fn mend(&self) -> anyhow::Result<()> {
        ip(&format!("link set {} up", self.cable)).map(drop)
    }
}

/// Interfaces have names of at most 15 characters.
fn letter(number: u32) -> anyhow::Result<char> {
    let letter = u8::try_from(number).ok().and_then(|n| b'c'.checked_add(n));
    let letter = letter.filter(u8::is_ascii_lowercase);
    Ok(char::from(
        letter.context("too many networks in one process")?,
    ))
}

/// A network that this machine has no way to yet.
fn free_net() -> anyhow::Result<[u8; 3]> {
    let routes = ip("-4 route show table all")?;
    let first = std::process::id();
    for n in first..first + 2_000 {
        let net = [10, 200 + u8::try_from(n % 50)?, u8::try_from(n / 50 % 250)?];
        let [a, b, c] = net;
        if !routes.contains(&format!("{a}.{b}.{c}.")) {
            return Ok(net);
        }
    }
    bail!("no free network")
}

/// The answer to a query of one question: an address for a name that is known, no such name for everything else.
fn answer(query: &[u8], names: &Names, reverse: &AtomicU32) -> Option<Vec<u8>> {
    const A: u16 = 1;
    const PTR: u16 = 12;
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*query.get(at)?);
        if length == 0 {
            break;
        }
        let label = query.get(at + 1..at + 1 + length)?;
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += 1 + length;
    }
    let question = query.get(12..at + 5)?;
    let kind = u16::from_be_bytes([*query.get(at + 1)?, *query.get(at + 2)?]);
    if kind == PTR {
        reverse.fetch_add(1, Ordering::Relaxed);
    }
    let names = names.lock().unwrap_or_else(PoisonError::into_inner);
    let known = names.get(&labels.join("."));
    let address = known.filter(|_| kind == A);
    let code = if known.is_some() { 0 } else { 3 };
    let mut answer = query.get(..2)?.to_vec();
    // An authoritative answer; recursion was asked for and is there.
    answer.extend([
        0x85,
        0x80 | code,
        0,
        1,
        0,
        u8::from(address.is_some()),
        0,
        0,
        0,
        0,
    ]);
    answer.extend(question);
    if let Some(address) = address {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, kind: u8) -> Vec<u8> {
        let mut query = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            query.push(u8::try_from(label.len()).unwrap());
            query.extend(label.bytes());
        }
        query.extend([0, 0, kind, 0, 1]);
        query
    }

    #[test]
    fn names_have_addresses_and_addresses_have_no_names() {
        let names = Names::default();
        let host = "ip-10-0-0-7.eu-west-1.compute.internal";
        names
            .lock()
            .unwrap()
            .insert(host.to_owned(), Ipv4Addr::new(10, 0, 0, 7));
        let reverse = AtomicU32::new(0);
        let ask = |name: &str, kind| answer(&query(name, kind), &names, &reverse).unwrap();
        let found = ask(host, 1);
        assert_eq!((&found[..2], found[3] & 15, found[7]), (&[7, 9][..], 0, 1));
        assert!(found.ends_with(&[10, 0, 0, 7]));
        let other_kind = ask(host, 28);
        assert_eq!((other_kind[3] & 15, other_kind[7]), (0, 0));
        assert_eq!(ask("7.0.0.10.in-addr.arpa", 12)[3] & 15, 3);
        assert_eq!(ask("x.example.com", 1)[3] & 15, 3);
        assert_eq!(reverse.load(Ordering::Relaxed), 1);
        assert!(answer(&[0; 5], &names, &reverse).is_none());
    }
}
