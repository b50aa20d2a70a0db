//! Asking the person before something is ended.

use std::io::{BufRead as _, IsTerminal as _, Write as _, stderr, stdin};

use crate::exit::mistake;

/// Asks a question that `--yes` answers in advance.
///
/// # Errors
/// A [`crate::exit::Mistake`] where the answer is not yes, or nobody is there to be asked.
pub fn confirm(question: &str, yes: bool) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    let answer = ask(&format!("{question} [y/N] "), "--yes")?;
    match answer.to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(mistake("not done: it was not confirmed")),
    }
}

/// Has the environment's name typed, which `--confirm NAME` does in advance: for what is hard to mend.
///
/// # Errors
/// A [`crate::exit::Mistake`] where it is another name, or nobody is there to be asked.
pub fn confirm_name(question: &str, name: &str, given: Option<&str>) -> anyhow::Result<()> {
    let typed = match given {
        Some(given) => given.to_owned(),
        None => ask(
            &format!("{question}\nType the environment's name to go on: "),
            "--confirm NAME",
        )?,
    };
    if typed == name {
        return Ok(());
    }
    Err(mistake(format!(
        "not done: {typed:?} is not the environment's name, which is {name}"
    )))
}

fn ask(prompt: &str, flag: &str) -> anyhow::Result<String> {
    let stdin = stdin();
    if !stdin.is_terminal() {
        let question = prompt.lines().next().unwrap_or_default();
        return Err(mistake(format!(
            "not done: this needs a confirmation, and there is no terminal to ask at: give {flag}. {}",
            question
                .trim_end_matches(" [y/N] ")
                .trim_end_matches(" Go on?")
        )));
    }
    let mut terminal = stderr();
    let _ = write!(terminal, "{prompt}");
    let _ = terminal.flush();
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    Ok(answer.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_in_advance_is_not_asked() {
        confirm("Go on?", true).unwrap();
        confirm_name("Go on?", "dev", Some("dev")).unwrap();
        let error = confirm_name("Go on?", "dev", Some("prod")).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("\"prod\" is not the environment's name, which is dev")
        );
    }
}
