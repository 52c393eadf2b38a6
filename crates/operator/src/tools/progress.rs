//! A word to who waits at a terminal, once it takes longer than a moment; gone when it is over.
//! What is waited for is left to the tools.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use tokio::task::JoinHandle;

/// Nobody wonders before.
const MOMENT: Duration = Duration::from_secs(2);

/// Something under way.
pub(crate) struct Progress(Option<JoinHandle<()>>);

impl Progress {
    /// Says what, if it lasts.
    pub(crate) fn of(what: &'static str) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(None);
        }
        Self(Some(tokio::spawn(async move {
            tokio::time::sleep(MOMENT).await;
            say(&format!("{what} …"));
        })))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(saying) = &self.0 {
            saying.abort();
            // Back to the start of the line, and nothing on it.
            say("\r\x1b[K");
        }
    }
}

fn say(text: &str) {
    let mut err = std::io::stderr().lock();
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}
