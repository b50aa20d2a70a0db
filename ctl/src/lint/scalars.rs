//! Plain scalars that YAML 1.1 and YAML 1.2 readers take for different things.
//!
//! kubelet and most tools read by 1.1, platformctl by 1.2. A release is safe either way, as it is canonical JSON; the
//! question is what the person who wrote the template meant.

/// Why `text`, an unquoted scalar, is ambiguous; `None` when both versions agree on it.
pub(crate) fn ambiguity(text: &str) -> Option<&'static str> {
    const WORDS: &[&str] = &[
        "y", "Y", "yes", "Yes", "YES", "n", "N", "no", "No", "NO", "on", "On", "ON", "off", "Off",
        "OFF",
    ];
    if WORDS.contains(&text) {
        return Some("a boolean in YAML 1.1, a string in YAML 1.2");
    }
    if text == "<<" {
        return Some("a merge key in YAML 1.1, a string in YAML 1.2");
    }
    if text == "=" {
        return Some("a special value in YAML 1.1, a string in YAML 1.2");
    }
    let (signed, unsigned) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    if let Some(digits) = unsigned.strip_prefix("0o") {
        return all_of(digits, |c| c.is_digit(8))
            .then_some("a string in YAML 1.1, an octal number in YAML 1.2");
    }
    if let Some(digits) = unsigned.strip_prefix("0b") {
        return all_of(digits, |c| matches!(c, '0' | '1' | '_'))
            .then_some("a binary number in YAML 1.1, a string in YAML 1.2");
    }
    if let Some(digits) = unsigned.strip_prefix("0x") {
        let differs = signed || digits.contains('_');
        let is_hex = all_of(digits, |c| c.is_ascii_hexdigit() || c == '_');
        return (is_hex && differs).then_some("a number in YAML 1.1, a string in YAML 1.2");
    }
    if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        || !unsigned.contains(|c: char| c.is_ascii_digit())
    {
        return None;
    }
    if unsigned.len() > 1
        && unsigned.starts_with('0')
        && all_of(unsigned, |c| c.is_ascii_digit() || c == '_')
    {
        return Some("an octal number in YAML 1.1, a decimal one or a string in YAML 1.2");
    }
    if is_sexagesimal(unsigned) {
        return Some("a number to the base of 60 in YAML 1.1, a string in YAML 1.2");
    }
    if !signed && is_date(unsigned) {
        return Some("a date in YAML 1.1, a string in YAML 1.2");
    }
    number_form(unsigned)
}

/// Underscores and exponents.
fn number_form(text: &str) -> Option<&'static str> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let mantissa_is_number = mantissa.matches('.').count() <= 1
        && all_of(mantissa, |c| c.is_ascii_digit() || matches!(c, '.' | '_'));
    if !mantissa_is_number {
        return None;
    }
    match exponent {
        None => mantissa
            .contains('_')
            .then_some("a number in YAML 1.1, a string in YAML 1.2"),
        Some(exponent) => {
            let has_sign = exponent.starts_with(['-', '+']);
            let digits = exponent.trim_start_matches(['-', '+']);
            let agrees = mantissa.contains('.') && has_sign && !mantissa.contains('_');
            (all_of(digits, |c| c.is_ascii_digit()) && !agrees)
                .then_some("a string in YAML 1.1, a number in YAML 1.2")
        }
    }
}

/// `22:22`, `1:30:00`, `10:30.5`: YAML 1.1 multiplies by 60.
fn is_sexagesimal(text: &str) -> bool {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut parts = whole.split(':');
    let first = parts.next().unwrap_or_default();
    let mut rest = parts.peekable();
    let minutes = |part: &str| {
        (1..=2).contains(&part.len())
            && part.parse::<u8>().is_ok_and(|n| n < 60)
            && all_of(part, |c| c.is_ascii_digit())
    };
    all_of(first, |c| c.is_ascii_digit() || c == '_')
        && rest.peek().is_some()
        && rest.all(minutes)
        && fraction.chars().all(|c| c.is_ascii_digit() || c == '_')
}

/// `2026-01-31`, and with a time behind it.
fn is_date(text: &str) -> bool {
    let (date, time) = match text.find(['T', 't', ' ']) {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let mut parts = date.split('-');
    let mut part = |sizes: std::ops::RangeInclusive<usize>| {
        parts
            .next()
            .is_some_and(|part| sizes.contains(&part.len()) && all_of(part, |c| c.is_ascii_digit()))
    };
    let days = if time.is_empty() { 2..=2 } else { 1..=2 };
    let is_day = part(4..=4) && part(days.clone()) && part(days) && parts.next().is_none();
    let mut clock = time.chars().skip(1).skip_while(|c| *c == ' ');
    is_day
        && (time.is_empty()
            || clock.next().is_some_and(|c| c.is_ascii_digit()) && time.contains(':'))
}

fn all_of(text: &str, allowed: impl Fn(char) -> bool) -> bool {
    !text.is_empty() && text.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_the_versions_read_differently_is_found() {
        for text in [
            "yes",
            "No",
            "ON",
            "off",
            "y",
            "N",
            "<<",
            "=",
            "0o17",
            "017",
            "-017",
            "00",
            "0_7",
            "1_000",
            "1_000.5",
            "22:22",
            "1:30:00",
            "190:20:30.15",
            "0b101",
            "-0x1F",
            "0x1_F",
            "1e3",
            "1.5e3",
            "1_0.5e+3",
            "2026-01-31",
            "2026-1-3T10:00:00Z",
        ] {
            assert!(ambiguity(text).is_some(), "{text}");
        }
    }

    #[test]
    fn what_they_agree_on_is_left_alone() {
        for text in [
            "true",
            "False",
            "null",
            "~",
            "",
            "0",
            "10",
            "-5",
            "0x1F",
            "1.5",
            ".5",
            "1.5e+3",
            ".inf",
            ".nan",
            "etcd",
            "yes.",
            "nope",
            "127.0.0.1:2379",
            "127.0.0.1",
            "100m",
            "512Mi",
            "v1.36.3",
            "1.36.3",
            "10.96.0.0/12",
            "22:99",
            "a:1",
            "0o8",
            "08x",
            "5s",
            "1e",
            "e3",
            "2026-01",
            "10:",
            "--a=yes",
            "-",
            ".",
            "+",
            "0b2",
            "1:2:x",
        ] {
            assert_eq!(ambiguity(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "[-+0-9a-fxob_.:eT ]{0,16}|.{0,16}") {
            ambiguity(&text);
        }

        /// Where our own reader (1.2) sees a number and the text is not flagged, it is one of the shapes both share.
        #[test]
        fn decimal_integers_are_never_flagged(n in any::<i64>()) {
            prop_assert_eq!(ambiguity(&n.to_string()), None);
        }
    }
}
