//! A block of our own in a text file that is somebody else's: written again in its place, or appended; the rest stays
//! byte for byte.

/// A block that begins or ends twice, or does not end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "line {line}: the block of platformctl is damaged (its lines `{begin}` and `{end}` must stand once each, in this order); remove what is left of it"
)]
pub struct DamagedBlock {
    /// Where, counted from 1.
    pub line: usize,
    begin: String,
    end: String,
}

/// The text with the block of `name` holding `body` (lines, with a final line end).
///
/// # Errors
/// [`DamagedBlock`].
pub fn with_block(text: &str, name: &str, body: &str) -> Result<String, DamagedBlock> {
    let begin = format!("# platformctl: begin {name}");
    let end = format!("# platformctl: end {name}");
    let block = format!("{begin}\n{body}{end}\n");
    let damaged = |line: usize| DamagedBlock {
        line: line + 1,
        begin: begin.clone(),
        end: end.clone(),
    };
    let mut before = String::new();
    let mut after = String::new();
    // 0: not seen, 1: inside, 2: behind it.
    let mut stage = 0;
    let mut opened = 0;
    for (n, line) in text.split_inclusive('\n').enumerate() {
        let word = line.trim();
        match (word == begin, word == end, stage) {
            (true, _, 0) => (stage, opened) = (1, n),
            (_, true, 1) => stage = 2,
            (true, ..) | (_, true, _) => return Err(damaged(n)),
            (.., 0) => before.push_str(line),
            (.., 2) => after.push_str(line),
            _ => {}
        }
    }
    match stage {
        1 => Err(damaged(opened)),
        2 => Ok(before + &block + &after),
        _ => {
            if !before.is_empty() {
                let gap = if before.ends_with('\n') { "\n" } else { "\n\n" };
                before.push_str(gap);
            }
            Ok(before + &block)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_is_appended_once_and_replaced_in_its_place() {
        let first = with_block("Host a\n  User b", "dev", "Host dev-*\n").unwrap();
        assert_eq!(
            first,
            "Host a\n  User b\n\n# platformctl: begin dev\nHost dev-*\n# platformctl: end dev\n"
        );
        let second = with_block(&first, "prod", "Host prod-*\n").unwrap();
        assert!(second.starts_with(&first));
        let amended = with_block(&second, "dev", "Host other\n").unwrap();
        assert_eq!(amended, second.replace("Host dev-*", "Host other"));
        assert_eq!(with_block("", "x", "y\n").unwrap().lines().count(), 3);
    }

    #[test]
    fn a_damaged_block_is_told_with_its_line() {
        let begin = "# platformctl: begin dev\n";
        let end = "# platformctl: end dev\n";
        for (text, line) in [
            (format!("a\n{begin}b\n"), 2),
            (format!("{end}{begin}"), 1),
            (format!("{begin}{begin}{end}"), 2),
            (format!("{begin}{end}{begin}{end}"), 3),
        ] {
            assert_eq!(
                with_block(&text, "dev", "x\n").unwrap_err().line,
                line,
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn twice_is_once_and_nothing_else_is_lost(text in "[ -~\n]{0,200}") {
            let once = with_block(&text, "dev", "Host x\n").unwrap();
            prop_assert!(once.starts_with(&text));
            prop_assert_eq!(&with_block(&once, "dev", "Host x\n").unwrap(), &once);
        }
    }
}
