//! The one place that writes to the terminal.

use std::io::{IsTerminal as _, Write as _, stderr, stdin, stdout};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::env::EnvError;

/// How lists are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Writes a line to standard output. A reader that has gone away is no failure of ours.
pub fn line(text: impl AsRef<str>) {
    let _ = writeln!(stdout(), "{}", text.as_ref());
}

/// Writes a line to standard output for as long as there is a reader.
///
/// # Errors
/// A reader that has gone away.
pub fn stream(text: impl AsRef<str>) -> std::io::Result<()> {
    writeln!(stdout(), "{}", text.as_ref())
}

/// Writes a line to standard error.
pub fn note(text: impl AsRef<str>) {
    let _ = writeln!(stderr(), "{}", text.as_ref());
}

/// Prints the whole chain of a failure once, outermost first; a mistake in an environment file with its excerpts.
pub fn failure(error: &anyhow::Error) {
    if let Some(env) = error.downcast_ref::<EnvError>() {
        let mut text = String::new();
        let handler = if stderr().is_terminal() {
            miette::GraphicalReportHandler::new()
        } else {
            miette::GraphicalReportHandler::new_themed(miette::GraphicalTheme::none())
        };
        if handler.render_report(&mut text, env).is_ok() {
            note(text);
            return;
        }
    }
    let mut causes = error.chain();
    if let Some(first) = causes.next() {
        note(format!("error: {first}"));
    }
    for cause in causes {
        note(format!("  because: {cause}"));
    }
}

/// A progress bar of `steps` steps on standard error; silent where that is no terminal.
#[must_use]
pub fn progress(steps: u64, what: &str) -> ProgressBar {
    let target = if stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(steps), target);
    if let Ok(style) = ProgressStyle::with_template("{prefix:>10} [{bar:24}] {pos}/{len} {msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(what.to_owned());
    bar
}

/// A picture on standard output that is drawn again and again: in place on a terminal, else one below the other.
#[derive(Debug)]
pub struct Redraw {
    in_place: bool,
    begun: bool,
}

impl Default for Redraw {
    fn default() -> Self {
        Self::new()
    }
}

impl Redraw {
    /// Nothing is drawn yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            in_place: stdout().is_terminal(),
            begun: false,
        }
    }

    /// Draws these lines in the place of those before.
    ///
    /// # Errors
    /// A reader that has gone away: nobody looks any more.
    pub fn show(&mut self, lines: &[String]) -> std::io::Result<()> {
        let mut out = stdout().lock();
        out.write_all(self.drawn(lines).as_bytes())?;
        out.flush()
    }

    /// In one piece, so that nothing flickers: home, each line to its end, and nothing below.
    fn drawn(&mut self, lines: &[String]) -> String {
        let mut text = String::new();
        match (self.in_place, std::mem::replace(&mut self.begun, true)) {
            (true, false) => text.push_str("\x1b[2J\x1b[H"),
            (true, true) => text.push_str("\x1b[H"),
            (false, false) => {}
            (false, true) => text.push('\n'),
        }
        for line in lines {
            text.push_str(line);
            text.push_str(if self.in_place { "\x1b[K\n" } else { "\n" });
        }
        if self.in_place {
            text.push_str("\x1b[J");
        }
        text
    }
}

/// Progress on standard error: in place on a terminal, else each line that is new.
#[derive(Debug)]
pub struct Progress {
    in_place: bool,
    before: Vec<String>,
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress {
    /// Nothing is shown yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            in_place: stderr().is_terminal(),
            before: Vec::new(),
        }
    }

    /// Shows these lines.
    pub fn show(&mut self, lines: &[String]) {
        if self.in_place {
            self.clear();
            lines.iter().for_each(note);
        } else {
            let is_new = |line: &&String| !self.before.contains(line);
            lines.iter().filter(is_new).for_each(note);
        }
        self.before = lines.to_vec();
    }

    /// Takes what is shown in place away again.
    pub fn clear(&mut self) {
        if self.in_place && !self.before.is_empty() {
            let _ = write!(stderr(), "\x1b[{}F\x1b[J", self.before.len());
            self.before.clear();
        }
    }
}

/// What a person said to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmation {
    /// Go ahead.
    Yes,
    /// Do not.
    No,
    /// There is nobody to ask.
    NoTerminal,
}

/// Asks on the terminal, unless it was said beforehand. Anything but a yes is a no.
#[must_use]
pub fn confirm(question: &str, yes: bool) -> Confirmation {
    if yes {
        return Confirmation::Yes;
    }
    if !stdin().is_terminal() || !stderr().is_terminal() {
        return Confirmation::NoTerminal;
    }
    let _ = write!(stderr(), "{question} [y/N] ");
    let mut answer = String::new();
    let _ = stdin().read_line(&mut answer);
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Confirmation::Yes,
        _ => Confirmation::No,
    }
}

/// A duration as people say it: `3s`, `4m10s`, `2h05m`, `3d04h`.
#[must_use]
pub fn age(duration: Duration) -> String {
    let s = duration.as_secs();
    match s {
        0..60 => format!("{s}s"),
        60..3_600 => format!("{}m{:02}s", s / 60, s % 60),
        3_600..86_400 => format!("{}h{:02}m", s / 3_600, s % 3_600 / 60),
        _ => format!("{}d{:02}h", s / 86_400, s % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_drawn_over_the_last() {
        let lines = ["a".to_owned()];
        let mut terminal = Redraw {
            in_place: true,
            begun: false,
        };
        assert_eq!(terminal.drawn(&lines), "\x1b[2J\x1b[Ha\x1b[K\n\x1b[J");
        assert_eq!(terminal.drawn(&lines), "\x1b[Ha\x1b[K\n\x1b[J");
        let mut file = Redraw {
            in_place: false,
            begun: false,
        };
        assert_eq!(
            (file.drawn(&lines), file.drawn(&lines)),
            ("a\n".into(), "\na\n".into())
        );
    }

    #[test]
    fn ages() {
        let of = |s| age(Duration::from_secs(s));
        assert_eq!((of(3), of(250)), ("3s".into(), "4m10s".into()));
        assert_eq!((of(7_500), of(273_600)), ("2h05m".into(), "3d04h".into()));
    }
}
