//! What a machine finds on EC2: a metadata service (IMDSv2), STS, and S3, in one process, checking what it is asked.
//!
//! Signatures are computed anew from the request as it came, so a request that passes here is signed as AWS wants it.

mod sigv4;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The region that requests must be signed for.
pub const REGION: &str = "eu-west-1";
/// The instance's id.
pub const INSTANCE: &str = "i-0123456789abcdef0";
/// The access key of the instance's role.
pub const ACCESS_KEY: &str = "ASIAIOSFODNN7EXAMPLE";
/// The secret that goes with it, with what a URL or a quoted string would trip over.
pub const SECRET_KEY: &str = "wJalr/XUtnFEMI+K7MDENG=bPxRfiCY\"EX\\KEY";
/// The session's token.
pub const SESSION_TOKEN: &str = "IQoJb3JpZ2luX2VjEXAMPLE//token+with/slashes==";
/// The token of the metadata service.
const IMDS_TOKEN: &str = "AQAEAEXAMPLETOKEN==";
const ROLE: &str = "platform-secure";

/// An answer to a read of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The whole object.
    Whole(Vec<u8>),
    /// The length of the whole, but only its first half; then the connection ends.
    Cut(Vec<u8>),
    /// An error of S3, with an XML body.
    Error(u16),
}

/// How the services behave, and what they saw.
#[derive(Debug, Default)]
pub struct State {
    /// So many requests for a token are answered 503 first.
    pub down: usize,
    /// So many requests for the role are answered 404 first, as right after a launch.
    pub no_role: usize,
    /// Names that `local-hostname` gives; the last one stays.
    pub host_names: VecDeque<String>,
    /// Who STS says is asking; the last one stays.
    pub callers: VecDeque<String>,
    /// What reads of objects are answered; the last one stays.
    pub objects: VecDeque<Answer>,
    /// Each request: method and target.
    pub requests: Vec<String>,
    /// What was wrong with a request.
    pub problems: Vec<String>,
}

/// The running services; dropping it ends them.
#[derive(Debug)]
pub struct Machine {
    addr: SocketAddr,
    state: Arc<Mutex<State>>,
    server: JoinHandle<()>,
}

struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
}

// === impl Machine ===

impl Machine {
    /// Starts the services on a free loopback port.
    ///
    /// # Errors
    /// No port.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State {
            host_names: ["IP-10-0-0-7.eu-west-1.compute.internal other.example.com".to_owned()]
                .into(),
            callers: [format!("AROAEXAMPLEROLEID:{INSTANCE}")].into(),
            objects: [Answer::Error(404)].into(),
            ..State::default()
        }));
        let shared = Arc::clone(&state);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                tokio::spawn(async move {
                    if let Err(error) = serve(stream, &state).await {
                        lock(&state).problems.push(format!("{error:#}"));
                    }
                });
            }
        });
        Ok(Self {
            addr,
            state,
            server,
        })
    }

    /// Where all three are.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Their behaviour and what they saw.
    ///
    /// # Panics
    /// After a panic in another holder.
    pub fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// How often a target that holds `part` was asked for.
    #[must_use]
    pub fn asked(&self, part: &str) -> usize {
        self.state()
            .requests
            .iter()
            .filter(|r| r.contains(part))
            .count()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no holder panicked")
}

async fn serve(mut stream: TcpStream, state: &Mutex<State>) -> anyhow::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let request = Request::parse(&String::from_utf8(head)?)?;
    let answer = {
        let mut state = lock(state);
        state
            .requests
            .push(format!("{} {}", request.method, request.target));
        match request.answer(&mut state) {
            Ok(answer) => answer,
            Err(error) => {
                state
                    .problems
                    .push(format!("{} {}: {error:#}", request.method, request.target));
                Answer::Error(403)
            }
        }
    };
    let (status, length, body) = match answer {
        Answer::Whole(body) => (200, body.len(), body),
        Answer::Cut(mut body) => {
            let length = body.len();
            body.truncate(length / 2);
            (200, length, body)
        }
        Answer::Error(status) => {
            let body = b"<Error><Code>Example</Code></Error>".to_vec();
            (status, body.len(), body)
        }
    };
    let head = format!(
        "HTTP/1.1 {status} Example\r\nContent-Length: {length}\r\nX-Aws-Ec2-Metadata-Token-Ttl-Seconds: 21600\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&body).await?;
    Ok(stream.shutdown().await?)
}

/// The first of several, or the only one left.
fn next<T: Clone>(queue: &mut VecDeque<T>) -> Option<T> {
    if queue.len() > 1 {
        return queue.pop_front();
    }
    queue.front().cloned()
}

// === impl Request ===

impl Request {
    fn parse(head: &str) -> anyhow::Result<Self> {
        let mut lines = head.trim_end().split("\r\n");
        let mut first = lines.next().unwrap_or_default().split(' ');
        let (method, target) = (
            first.next().context("method")?,
            first.next().context("target")?,
        );
        let headers = lines
            .map(|l| {
                let (name, value) = l.split_once(':').context("a header")?;
                Ok((name.to_ascii_lowercase(), value.trim().to_owned()))
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(Self {
            method: method.to_owned(),
            target: target.to_owned(),
            headers,
        })
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(n, _)| n == name);
        found.next().map(|(_, value)| value.as_str())
    }

    fn answer(&self, state: &mut State) -> anyhow::Result<Answer> {
        let text = |text: &str| Ok(Answer::Whole(text.as_bytes().to_vec()));
        let Some(path) = self.target.strip_prefix("/latest/") else {
            return self.signed(state);
        };
        if path == "api/token" {
            let seconds = self.header("x-aws-ec2-metadata-token-ttl-seconds");
            let seconds: u32 = seconds.context("no life of the token")?.parse()?;
            ensure!(
                self.method == "PUT" && (1..=21600).contains(&seconds),
                "not a request for a token"
            );
            if state.down > 0 {
                state.down -= 1;
                return Ok(Answer::Error(503));
            }
            return text(IMDS_TOKEN);
        }
        let token = self.header("x-aws-ec2-metadata-token");
        ensure!(
            self.method == "GET" && token == Some(IMDS_TOKEN),
            "no token of IMDSv2"
        );
        let role = format!("meta-data/iam/security-credentials/{ROLE}");
        match path {
            "meta-data/iam/security-credentials/" if state.no_role > 0 => {
                state.no_role -= 1;
                Ok(Answer::Error(404))
            }
            "meta-data/iam/security-credentials/" => text(ROLE),
            "meta-data/instance-id" => text(INSTANCE),
            "meta-data/placement/availability-zone" => text("eu-west-1b"),
            "meta-data/local-ipv4" => text("10.0.0.7"),
            "meta-data/instance-type" => text("t3.medium"),
            "meta-data/local-hostname" => text(&next(&mut state.host_names).context("a name")?),
            path if path == role => text(
                &serde_json::json!({
                    "Code": "Success", "LastUpdated": "2026-01-01T00:00:00Z", "Type": "AWS-HMAC",
                    "AccessKeyId": ACCESS_KEY, "SecretAccessKey": SECRET_KEY, "Token": SESSION_TOKEN,
                    "Expiration": "2026-01-01T06:00:00Z",
                })
                .to_string(),
            ),
            _ => Ok(Answer::Error(404)),
        }
    }

    fn signed(&self, state: &mut State) -> anyhow::Result<Answer> {
        let token = self.header("x-amz-security-token");
        ensure!(
            token == Some(SESSION_TOKEN),
            "the security token is {token:?}"
        );
        let service = if self.target.starts_with("/?Action=") {
            "sts"
        } else {
            "s3"
        };
        if service == "s3" {
            ensure!(
                self.header("x-amz-content-sha256").is_some(),
                "no x-amz-content-sha256"
            );
        }
        let target = &self.target;
        sigv4::check(
            &self.method,
            target,
            &self.headers,
            service,
            &["x-amz-security-token"],
        )?;
        if service == "s3" {
            return next(&mut state.objects).context("an answer");
        }
        ensure!(
            target == "/?Action=GetCallerIdentity&Version=2011-06-15",
            "not that call"
        );
        let caller = next(&mut state.callers).context("a caller")?;
        let answer = format!(
            "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\n  <GetCallerIdentityResult>\n    \
             <Arn>arn:aws:sts::123456789012:assumed-role/{ROLE}/{INSTANCE}</Arn>\n    <UserId>{caller}</UserId>\n    \
             <Account>123456789012</Account>\n  </GetCallerIdentityResult>\n</GetCallerIdentityResponse>\n"
        );
        Ok(Answer::Whole(answer.into_bytes()))
    }
}
