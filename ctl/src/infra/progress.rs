//! What is shown while the engine works: on a terminal a line for each resource that is being worked on, under a bar;
//! elsewhere a plain line a resource.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, stderr};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::log::Event;
use crate::output;

/// From when on a plain line says that something still goes on, and how often then.
const PATIENCE: u64 = 30;

/// What is shown of a run.
#[derive(Debug)]
pub(super) struct Progress {
    screen: Option<Screen>,
}

#[derive(Debug)]
struct Screen {
    all: MultiProgress,
    bar: ProgressBar,
    lines: BTreeMap<String, ProgressBar>,
}

impl Progress {
    /// For a run that will work on so many resources.
    pub(super) fn new(resources: usize) -> Self {
        let screen = stderr().is_terminal().then(|| {
            let all = MultiProgress::new();
            let steps = u64::try_from(resources).unwrap_or(u64::MAX);
            let bar = all.add(output::progress(steps, "apply"));
            Screen {
                all,
                bar,
                lines: BTreeMap::new(),
            }
        });
        Self { screen }
    }

    /// Shows an event.
    pub(super) fn show(&mut self, event: &Event) {
        match &mut self.screen {
            Some(screen) => screen.show(event),
            None => {
                if let Some(line) = plain(event) {
                    output::note(line);
                }
            }
        }
    }

    /// Takes what is shown off the screen.
    pub(super) fn finish(self) {
        if let Some(screen) = self.screen {
            for line in screen.lines.values() {
                line.finish_and_clear();
            }
            screen.bar.finish_and_clear();
        }
    }
}

impl Screen {
    fn show(&mut self, event: &Event) {
        match event {
            Event::Started { address, action } => {
                let line = self.all.add(ProgressBar::new_spinner());
                if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg} {elapsed}") {
                    line.set_style(style);
                }
                line.set_message(format!("{action} {address}"));
                line.enable_steady_tick(Duration::from_millis(120));
                self.lines.insert(address.clone(), line);
            }
            Event::Progress { .. } | Event::Diagnostic(_) => {}
            Event::Done { address, .. } | Event::Failed { address, .. } => {
                if let Some(line) = self.lines.remove(address) {
                    line.finish_and_clear();
                    self.all.remove(&line);
                }
                self.bar.inc(1);
                self.bar.set_message(address.clone());
                if let Some(line) = plain(event).filter(|_| matches!(event, Event::Failed { .. })) {
                    let _ = self.all.println(line);
                }
            }
        }
    }
}

/// The line for who has no terminal.
fn plain(event: &Event) -> Option<String> {
    match event {
        Event::Progress {
            address,
            action,
            seconds,
        } if *seconds > 0 && seconds % PATIENCE == 0 => {
            Some(format!("  still {}: {address} ({seconds}s)", doing(action)))
        }
        Event::Done {
            address,
            action,
            seconds,
        } => Some(format!("  {}: {address} ({seconds}s)", done(action))),
        Event::Failed { address, action } => Some(format!("  FAILED to {action}: {address}")),
        _ => None,
    }
}

fn done(action: &str) -> &str {
    match action {
        "create" => "made",
        "update" => "changed",
        "delete" => "destroyed",
        "read" => "read",
        other => other,
    }
}

fn doing(action: &str) -> &str {
    match action {
        "create" => "making",
        "update" => "changing",
        "delete" => "destroying",
        "read" => "reading",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_lines_are_few() {
        let at = |seconds| Event::Progress {
            address: "aws_lb.x".into(),
            action: "create".into(),
            seconds,
        };
        assert_eq!(plain(&at(10)), None);
        assert_eq!(plain(&at(60)).unwrap(), "  still making: aws_lb.x (60s)");
        let done = Event::Done {
            address: "aws_lb.x".into(),
            action: "delete".into(),
            seconds: 3,
        };
        assert_eq!(plain(&done).unwrap(), "  destroyed: aws_lb.x (3s)");
    }
}
