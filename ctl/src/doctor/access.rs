//! Whether the operator's own address is among those that are let in.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Context as _;
use url::Url;

use super::{Line, Options};
use crate::env::{Cidr, Environment};

/// How long the server may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer: an address and a line end.
const ANSWER: usize = 64;

pub(super) async fn check(environment: &Environment, options: &Options) -> Vec<Line> {
    let address = match options.public_address {
        Some(address) => Ok(address),
        None => ask(&options.address_url)
            .await
            .with_context(|| format!("{} did not tell it", options.address_url))
            .map_err(|error| format!("{error:#}")),
    };
    judge(environment, &address)
}

async fn ask(url: &Url) -> anyhow::Result<Ipv4Addr> {
    let client = reqwest::Client::builder()
        .timeout(PATIENCE)
        .local_address(Some(Ipv4Addr::UNSPECIFIED.into()))
        .build()?;
    let mut answer = client.get(url.clone()).send().await?.error_for_status()?;
    let mut text = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        text.extend_from_slice(&chunk);
        anyhow::ensure!(
            text.len() <= ANSWER,
            "the answer is too long for an address"
        );
    }
    let text = String::from_utf8(text).context("the answer is no text")?;
    text.trim()
        .parse()
        .context("the answer is not an IPv4 address")
}

fn judge(environment: &Environment, address: &Result<Ipv4Addr, String>) -> Vec<Line> {
    let address = match address {
        Ok(address) => *address,
        Err(why) => {
            return vec![Line::warn(
                "access lists",
                format!("this machine's own address is unknown: {why}"),
                "give it: --public-address IP",
            )];
        }
    };
    [
        ("ssh access", "ssh_access_list", &environment.access.ssh),
        (
            "api access",
            "kubeapi_access_list",
            &environment.access.kubeapi,
        ),
    ]
    .map(|(check, key, list)| judge_list(check, key, list, address))
    .into()
}

fn judge_list(check: &'static str, key: &str, list: &[Cidr], address: Ipv4Addr) -> Line {
    match list.iter().find(|cidr| cidr.contains(address)) {
        Some(cidr) if cidr.prefix() == 0 => Line::warn(
            check,
            format!("{key} lets the whole internet in"),
            format!("name the networks that need it ({address} is yours)"),
        ),
        Some(cidr) => Line::ok(check, format!("{address} is in {key} ({cidr})")),
        None => Line::fail(
            check,
            format!("your address {address} is not in {key}"),
            format!("add it: {address}/32"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::super::Verdict::{Fail, Ok as Well, Warn};
    use super::*;
    use crate::testing::environment;

    #[test]
    fn access_lists() {
        let dev = environment("");
        let judged = |environment: &Environment, address: &str| -> Vec<_> {
            let address = address.parse().map_err(|_| "silent".to_owned());
            let lines = judge(environment, &address);
            lines.iter().map(|l| (l.check, l.verdict)).collect()
        };
        let both = |ssh, api| vec![("ssh access", ssh), ("api access", api)];
        assert_eq!(judged(&dev, "192.0.2.10"), both(Well, Well));
        assert_eq!(judged(&dev, "192.0.2.11"), both(Fail, Well));
        assert_eq!(judged(&dev, "198.51.100.1"), both(Fail, Fail));
        assert_eq!(judged(&dev, "unknown"), [("access lists", Warn)]);
        let open = environment("ssh_access_list = \"0.0.0.0/0\"");
        assert_eq!(judged(&open, "192.0.2.11"), both(Warn, Well));
        let fix = judge(&dev, &Ok([192, 0, 2, 11].into())).swap_remove(0).fix;
        assert_eq!(fix.as_deref(), Some("add it: 192.0.2.11/32"));
    }

    async fn answering(body: &'static str) -> Url {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        url.parse().unwrap()
    }

    #[tokio::test]
    async fn the_address_is_what_the_server_says_and_nothing_else_is_taken() {
        let address = ask(&answering("192.0.2.7\n").await).await.unwrap();
        assert_eq!(address, Ipv4Addr::new(192, 0, 2, 7));
        for other in ["<html>captive portal</html>", "2001:db8::1", ""] {
            let error = ask(&answering(other).await).await.unwrap_err();
            assert!(error.to_string().contains("not an IPv4"), "{error:#}");
        }
        let long = "1".repeat(100).leak();
        assert!(ask(&answering(long).await).await.is_err());
        let closed: Url = "http://127.0.0.1:1/".parse().unwrap();
        assert!(ask(&closed).await.is_err());
    }
}
