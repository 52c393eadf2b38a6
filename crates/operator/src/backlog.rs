//! Who waits for a round of a controller, since when, and whose round is under way: a ledger beside the queue, for metrics and `/livez`.
//! The queue itself is `wake`; when a wait is too long is left to `signs`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The ledger of one controller.
#[derive(Debug)]
pub(crate) struct Backlog {
    /// The controller's name.
    pub controller: &'static str,
    ledger: Mutex<Ledger>,
}

#[derive(Debug, Default)]
struct Ledger {
    woken: HashMap<String, Instant>,
    under_way: HashMap<String, Instant>,
    /// Since when rounds are made; before, waiting is no fault.
    opened: Option<Instant>,
    /// When a round was begun last.
    begun: Option<Instant>,
}

/// What can be read in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// Objects that were woken and whose round has not begun.
    pub waiting: usize,
    /// How long the oldest of them has waited since the controllers run, one whose former round is under way not counted: it has its turn.
    pub oldest: Duration,
    /// Rounds under way.
    pub under_way: usize,
    /// For how long the oldest of them is.
    pub longest: Duration,
    /// How long ago a round was begun last, or since when the controllers run.
    pub idle: Duration,
}

impl Backlog {
    /// An empty one.
    pub(crate) fn new(controller: &'static str) -> Arc<Self> {
        Arc::new(Self { controller, ledger: Mutex::default() })
    }

    /// The controller takes from its queue from now on.
    pub(crate) fn open(&self) {
        self.ledger().opened.get_or_insert_with(Instant::now);
    }

    /// An object was woken.
    pub(crate) fn woken(&self, object: String) {
        self.ledger().woken.entry(object).or_insert_with(Instant::now);
    }

    /// Its turn came, and it is there no more.
    pub(crate) fn vanished(&self, object: &str) {
        self.ledger().woken.remove(object);
    }

    /// Its round begins; it is under way until what this returns is dropped.
    pub(crate) fn begin(self: &Arc<Self>, object: String) -> UnderWay {
        let now = Instant::now();
        let mut ledger = self.ledger();
        ledger.woken.remove(&object);
        ledger.begun = Some(now);
        ledger.under_way.insert(object.clone(), now);
        UnderWay { backlog: Arc::clone(self), object, begun: now }
    }

    /// What it shows now.
    pub(crate) fn state(&self) -> State {
        let ledger = self.ledger();
        let now = Instant::now();
        let Some(opened) = ledger.opened else {
            return State { waiting: ledger.woken.len(), ..State::default() };
        };
        let since = |moment: Instant| now.saturating_duration_since(moment.max(opened));
        let held = |object: &String| ledger.under_way.contains_key(object);
        let oldest = ledger.woken.iter().filter(|(object, _)| !held(object)).map(|(_, woken)| *woken).min();
        State {
            waiting: ledger.woken.len(),
            oldest: oldest.map(since).unwrap_or_default(),
            under_way: ledger.under_way.len(),
            longest: ledger.under_way.values().min().copied().map(since).unwrap_or_default(),
            idle: since(ledger.begun.unwrap_or(opened)),
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A round under way.
#[derive(Debug)]
pub(crate) struct UnderWay {
    backlog: Arc<Backlog>,
    object: String,
    begun: Instant,
}

impl UnderWay {
    /// For how long it is.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.backlog.ledger().under_way.remove(&self.object);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_counted_once_until_its_round_begins() {
        let backlog = Backlog::new("certificate");
        for object in ["a", "b", "a"] {
            backlog.woken(object.into());
        }
        let state = backlog.state();
        assert_eq!((state.waiting, state.under_way), (2, 0));
        assert_eq!(state.oldest, Duration::ZERO, "nobody has been let wait before the controllers run");
        backlog.open();
        let round = backlog.begin("a".into());
        assert_eq!((backlog.state().waiting, backlog.state().under_way), (1, 1));
        backlog.woken("a".into());
        backlog.vanished("b");
        let state = backlog.state();
        assert_eq!((state.waiting, state.under_way), (1, 1));
        assert_eq!(state.oldest, Duration::ZERO, "its former round is under way");
        drop(round);
        assert!(backlog.state().oldest > Duration::ZERO);
        assert_eq!(backlog.state().under_way, 0);
    }
}
