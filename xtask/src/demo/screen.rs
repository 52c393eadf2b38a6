//! How the demo speaks: numbered steps with their time, commands with what they print, colour on a terminal alone.
//! What is said is left to the story.

use std::env;
use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::Context;

/// How often the line of a step under way says that it goes on, on a terminal.
const TICK: Duration = Duration::from_secs(1);

const BOLD: &str = "\x1b[1m";
const FAINT: &str = "\x1b[2m";
const GREEN: &str = "\x1b[32m";
const CYAN: &str = "\x1b[36m";
const PLAIN: &str = "\x1b[0m";

/// Standard output, as the demo writes it.
pub(crate) struct Screen {
    steps: usize,
    done: usize,
    started: Instant,
    is_terminal: bool,
    /// Not on a terminal that asks for none (<https://no-color.org>).
    is_coloured: bool,
}

impl Screen {
    /// For a story of so many steps.
    pub(crate) fn new(steps: usize) -> Screen {
        let is_terminal = std::io::stdout().is_terminal();
        let wants_none = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Screen {
            steps,
            done: 0,
            started: Instant::now(),
            is_terminal,
            is_coloured: is_terminal && !wants_none,
        }
    }

    /// Whether every step was done.
    pub(crate) fn is_complete(&self) -> bool {
        self.done == self.steps
    }

    /// Does a step; on a terminal its line counts the seconds.
    ///
    /// # Errors
    /// The step's own, with its name.
    pub(crate) async fn step<T>(
        &mut self,
        what: &str,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let begun = Instant::now();
        let head = self.head(what);
        let mut work = std::pin::pin!(work);
        let result = if self.is_terminal {
            let mut tick = tokio::time::interval(TICK);
            loop {
                tokio::select! {
                    result = &mut work => break result,
                    _ = tick.tick() => self.rewrite(&format!("{head} … {} s", begun.elapsed().as_secs())),
                }
            }
        } else {
            println!("{head} …");
            work.await
        };
        self.finish(&head, what, begun, result)
    }

    /// Does a step that has output of its own, a build say.
    ///
    /// # Errors
    /// As `step`.
    pub(crate) async fn step_with_output<T>(
        &mut self,
        what: &str,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let begun = Instant::now();
        let head = self.head(what);
        println!("{head} …");
        let result = work.await;
        self.finish(&head, what, begun, result)
    }

    /// Prints a heading.
    pub(crate) fn heading(&self, text: &str) {
        println!("\n{}", self.in_colour(BOLD, text));
    }

    /// Prints a line or several.
    pub(crate) fn say(&self, text: impl Display) {
        println!("{text}");
    }

    /// Prints text that is shown rather than said: a document, what a command printed.
    pub(crate) fn quote(&self, text: &str) {
        for line in text.trim_end().lines() {
            println!("    {line}");
        }
    }

    /// Prints a command line as it would be typed.
    pub(crate) fn command(&self, line: &str) {
        println!("\n  {} {}", self.in_colour(FAINT, "$"), self.in_colour(CYAN, line));
    }

    fn head(&self, what: &str) -> String {
        let place = format!("[{}/{}]", self.done + 1, self.steps);
        format!("{} {what}", self.in_colour(BOLD, &place))
    }

    fn finish<T>(
        &mut self,
        head: &str,
        what: &str,
        begun: Instant,
        result: anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        if self.is_terminal {
            self.rewrite("");
        }
        let value =
            result.with_context(|| format!("step {} of {} failed: {what}", self.done + 1, self.steps))?;
        let (step, all) = (begun.elapsed().as_secs_f32(), self.started.elapsed().as_secs());
        println!("{head} {}", self.in_colour(GREEN, &format!("✓ {step:.1} s (at {all} s)")));
        self.done += 1;
        Ok(value)
    }

    fn rewrite(&self, line: &str) {
        let mut stdout = std::io::stdout();
        write!(stdout, "\r\x1b[K{line}").ok();
        stdout.flush().ok();
    }

    fn in_colour(&self, colour: &str, text: &str) -> String {
        if self.is_coloured { format!("{colour}{text}{PLAIN}") } else { text.to_owned() }
    }
}
