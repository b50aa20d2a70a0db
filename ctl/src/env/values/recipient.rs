//! age recipients.

use super::Refused;

pub(super) fn check_recipient(text: &str) -> Result<(), Refused> {
    if text.starts_with("AGE-SECRET-KEY") {
        // `redact` took the key itself away before anything was read.
        return Err(Refused::because("is a secret key")
            .but("write its recipient (age-keygen -y), and treat the secret key as disclosed"));
    }
    let fits = text.len() == 62 && text.starts_with("age1") && bech32_holds(text);
    if fits {
        Ok(())
    } else {
        Err(Refused::because(
            "is not an age recipient: age1 and 58 characters with a matching checksum",
        ))
    }
}

/// Verifies the checksum of a lower-case bech32 string whose human part is `age` (BIP 173).
fn bech32_holds(text: &str) -> bool {
    const ALPHABET: &str = "qpzry9x8gf2tvdw0s3jn54khce6mua7l";
    const GENERATOR: [u32; 5] = [
        0x3b6a_57b2,
        0x2650_8e6d,
        0x1ea1_19fa,
        0x3d42_33dd,
        0x2a14_62b3,
    ];
    let Some(data) = text.strip_prefix("age1") else {
        return false;
    };
    let values: Option<Vec<u32>> = data
        .chars()
        .map(|c| ALPHABET.find(c).and_then(|at| u32::try_from(at).ok()))
        .collect();
    let Some(values) = values else { return false };
    let human = b"age"
        .iter()
        .map(|b| u32::from(b >> 5))
        .chain([0])
        .chain(b"age".iter().map(|b| u32::from(b & 31)));
    let sum = human.chain(values).fold(1_u32, |sum, value| {
        let shifted = ((sum & 0x01ff_ffff) << 5) ^ value;
        let top = sum >> 25;
        GENERATOR
            .iter()
            .enumerate()
            .filter(|(bit, _)| (top >> bit) & 1 == 1)
            .fold(shifted, |sum, (_, g)| sum ^ g)
    });
    sum == 1
}
