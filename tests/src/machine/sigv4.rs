//! AWS Signature Version 4, computed anew from a request as it came.

use anyhow::{Context as _, ensure};
use sha2::{Digest as _, Sha256};

use super::{ACCESS_KEY, REGION, SECRET_KEY};

/// The length of SHA-256's block, in bytes.
const BLOCK: usize = 64;

/// Checks the `Authorization` of a request without a body; `required` headers must be among the signed ones.
pub(super) fn check(
    method: &str,
    target: &str,
    headers: &[(String, String)],
    service: &str,
    required: &[&str],
) -> anyhow::Result<()> {
    let header = |name: &str| {
        let mut found = headers
            .iter()
            .filter(|(n, _)| n == name)
            .map(|(_, v)| v.as_str());
        let first = found.next();
        ensure!(found.next().is_none(), "{name} is there twice");
        Ok(first)
    };
    let authorization = header("authorization")?.context("the request is not signed")?;
    let fields = authorization
        .strip_prefix("AWS4-HMAC-SHA256 ")
        .context("another algorithm")?;
    let field = |name: &str| {
        let mut all = fields.split(',').filter_map(|f| f.trim().split_once('='));
        all.find(|(n, _)| *n == name)
            .map(|(_, v)| v)
            .context(name.to_owned())
    };
    let date = header("x-amz-date")?.context("no x-amz-date")?;
    let day = date.get(..8).context("a date")?;
    let scope = format!("{day}/{REGION}/{service}/aws4_request");
    ensure!(
        field("Credential")? == format!("{ACCESS_KEY}/{scope}"),
        "the scope is not {scope}"
    );
    let signed: Vec<&str> = field("SignedHeaders")?.split(';').collect();
    ensure!(signed.is_sorted(), "the signed headers are not sorted");
    for name in [&["host", "x-amz-date"], required].concat() {
        ensure!(signed.contains(&name), "{name} is not signed");
    }
    let mut canonical = String::new();
    for name in &signed {
        let value = header(name)?.with_context(|| format!("{name} is signed and not there"))?;
        canonical.push_str(&format!("{name}:{value}\n"));
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut parameters: Vec<&str> = query.split('&').collect();
    parameters.sort_unstable();
    let empty = hex(&Sha256::digest(b""));
    let payload = header("x-amz-content-sha256")?.unwrap_or(&empty);
    ensure!(payload == empty, "the digest of the body is {payload}");
    let request = [
        method,
        path,
        &parameters.join("&"),
        &canonical,
        &signed.join(";"),
        payload,
    ]
    .join("\n");
    let digest = hex(&Sha256::digest(request.as_bytes()));
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{digest}");
    let mut key = format!("AWS4{SECRET_KEY}").into_bytes();
    for part in [day, REGION, service, "aws4_request"] {
        key = hmac(&key, part.as_bytes());
    }
    ensure!(
        field("Signature")? == hex(&hmac(&key, to_sign.as_bytes())),
        "the signature is not that of\n{request}"
    );
    Ok(())
}

/// RFC 2104 with SHA-256.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = [0_u8; BLOCK];
    if key.len() > BLOCK {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let pad = |with: u8| block.map(|b| b ^ with);
    let inner = Sha256::new()
        .chain_update(pad(0x36))
        .chain_update(message)
        .finalize();
    let outer = Sha256::new().chain_update(pad(0x5c)).chain_update(inner);
    outer.finalize().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test case 2, and a key longer than a block (case 6).
    #[test]
    fn hmac_is_that_of_the_rfc() {
        assert_eq!(
            hex(&hmac(b"Jefe", b"what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        let text = b"Test Using Larger Than Block-Size Key - Hash Key First";
        assert_eq!(
            hex(&hmac(&[0xaa; 131], text)),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }
}
