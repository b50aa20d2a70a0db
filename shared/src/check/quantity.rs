//! Kubernetes' quantities, as `apimachinery`'s `resource.ParseQuantity` reads them: `100m`, `64Mi`, `1e3`, `.5`.

/// A quantity in billionths, the smallest unit there is; what is finer is rounded up, what is larger is capped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Quantity {
    /// Below zero.
    pub(crate) is_negative: bool,
    billionths: u128,
}

/// Suffixes that are powers of ten.
const DECIMAL: &[(&str, i32)] = &[
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];
/// Suffixes that are powers of 1,024, in order.
const BINARY: &[&str] = &["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

// === impl Quantity ===

impl Quantity {
    /// Reads one; none where Kubernetes would refuse it.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let end = unsigned
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return None;
        }
        let billionths = match BINARY.iter().zip(1u32..).find(|(name, _)| **name == suffix) {
            Some((_, power)) => scaled(whole, fraction, 9, 1u128 << (10 * power)),
            None => scaled(whole, fraction, exponent(suffix)?.saturating_add(9), 1),
        };
        Some(Self {
            is_negative: text.starts_with('-') && billionths != 0,
            billionths,
        })
    }
}

/// The power of ten that a decimal suffix stands for; `e3` and `E3` are suffixes too, `E` alone is 10¹⁸.
fn exponent(suffix: &str) -> Option<i32> {
    if let Some((_, power)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Some(*power);
    }
    let digits = suffix.strip_prefix(['e', 'E'])?;
    let plain = digits.strip_prefix(['+', '-']).unwrap_or(digits);
    if plain.is_empty() || !plain.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let far = if digits.starts_with('-') { -999 } else { 999 };
    Some(digits.parse().unwrap_or(far).clamp(-999, 999))
}

/// `whole.fraction` · 10^`power` · `factor`, rounded up.
fn scaled(whole: &str, fraction: &str, power: i32, factor: u128) -> u128 {
    let digits = whole.bytes().chain(fraction.bytes());
    let point = i32::try_from(whole.len())
        .unwrap_or(i32::MAX)
        .saturating_add(power);
    let (mut value, mut rest, mut place) = (0u128, false, 0i32);
    // Each digit counts `factor` times as much, and what falls below a billionth only rounds.
    for digit in digits.map(|b| u128::from(b - b'0')) {
        if place < point {
            value = value.saturating_mul(10).saturating_add(digit * factor);
        } else {
            let below = u32::try_from(place - point + 1).unwrap_or(u32::MAX);
            let unit = 10u128.checked_pow(below);
            let share = digit * factor;
            value = value.saturating_add(unit.map_or(0, |unit| share / unit));
            rest |= unit.map_or(share != 0, |unit| !share.is_multiple_of(unit));
        }
        place = place.saturating_add(1);
    }
    while place < point && value != 0 && value != u128::MAX {
        value = value.saturating_mul(10);
        place += 1;
    }
    value.saturating_add(u128::from(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn billionths(text: &str) -> Option<u128> {
        Quantity::parse(text).map(|q| q.billionths)
    }

    #[test]
    fn reads_what_kubernetes_reads() {
        for (text, value) in [
            ("0", 0),
            ("1", 1_000_000_000),
            ("+1.", 1_000_000_000),
            (".5", 500_000_000),
            ("100m", 100_000_000),
            ("1u", 1_000),
            ("1n", 1),
            ("0.1n", 1),
            ("1Ki", 1_024_000_000_000),
            ("0.5Mi", 524_288_000_000_000),
            ("1.5Gi", 1_610_612_736_000_000_000),
            ("1e3", 1_000_000_000_000),
            ("1E3", 1_000_000_000_000),
            ("12e-3", 12_000_000),
            ("1E", 1_000_000_000_000_000_000_000_000_000),
            ("512M", 512_000_000_000_000_000),
        ] {
            assert_eq!(billionths(text), Some(value), "{text}");
        }
        assert!(Quantity::parse("-1").unwrap().is_negative);
        assert!(Quantity::parse("512Mi") > Quantity::parse("512M"));
        assert_eq!(billionths("1e999999999999"), Some(u128::MAX));
    }

    #[test]
    fn refuses_what_kubernetes_refuses() {
        for text in [
            "", " ", "m", ".", "1.2.3", "512MB", "100mm", "1 Gi", "1gi", "1K", "1KI", "0x10", "1e",
            "1e+", "1e1.5", "--1", "1,5", "1i", "١", "1Mi ",
        ] {
            assert_eq!(Quantity::parse(text), None, "{text:?}");
        }
    }
}
