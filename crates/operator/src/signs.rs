//! Signs of life: the runtime's heartbeat, what each watch heard last, what each queue does; and the judgement that `/livez` gives.
//! Who gives the signs is left to `traffic`, `watch` and `backlog`.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::backlog::{Backlog, State};
use crate::metrics::Metrics;

/// How often the runtime shows that it runs.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// A runtime that shows nothing for so long is stuck: no task of ours computes for a whole second.
const HEARTBEAT_LIMIT: Duration = Duration::from_secs(60);
/// Something that waits so long for a round while no round of its controller is begun: rounds begin at once, whatever they then wait for.
const QUEUE_LIMIT: Duration = Duration::from_secs(600);
/// A watch ends by itself after its time limit and another is asked for; with failures in between, half a minute later. One that
/// shows nothing for so many times its limit hangs on a connection that nobody will ever answer.
const WATCH_LIMITS: u32 = 3;
/// One that has failed shows nothing until it is taken up again: kube waits for half a minute at most between attempts.
const BETWEEN_ATTEMPTS: Duration = Duration::from_secs(40);

/// When something happened last.
#[derive(Debug)]
struct Stamp(Mutex<Instant>);

impl Stamp {
    fn now() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    fn set(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// What happens next may take so long, and is no silence.
    fn set_ahead(&self, by: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now() + by;
    }

    fn age(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

/// What one watch's stream showed last.
#[derive(Debug)]
pub(crate) struct WatchSigns {
    what: &'static str,
    metrics: Arc<Metrics>,
    /// Anything: a request, an answer, an error.
    alive: Stamp,
    /// That what it shows is so.
    fresh: Stamp,
}

impl WatchSigns {
    /// It asks the API server.
    pub(crate) fn began(&self) {
        self.alive.set();
        self.metrics.watch_starts.inc([self.what]);
    }

    /// The API server's word arrives.
    pub(crate) fn is_fresh(&self) {
        self.alive.set();
        self.fresh.set();
    }

    /// It failed, and will be taken up again: an API server that is away does not make a watch hang.
    pub(crate) fn failed(&self) {
        self.alive.set_ahead(BETWEEN_ATTEMPTS);
        self.metrics.watch_failures.inc([self.what]);
    }
}

/// The signs of the whole operator.
#[derive(Debug)]
pub(crate) struct Signs {
    metrics: Arc<Metrics>,
    watch_timeout: Duration,
    heartbeat: Stamp,
    heartbeat_limit: Duration,
    watches: Mutex<Vec<Arc<WatchSigns>>>,
    backlogs: OnceLock<Vec<Arc<Backlog>>>,
}

impl Signs {
    /// No watch yet, no queue; each watch ends by itself after `watch_timeout`.
    pub(crate) fn new(metrics: Arc<Metrics>, watch_timeout: Duration) -> Arc<Self> {
        Arc::new(Self::of(metrics, watch_timeout, HEARTBEAT_LIMIT))
    }

    fn of(metrics: Arc<Metrics>, watch_timeout: Duration, heartbeat_limit: Duration) -> Self {
        let (heartbeat, watches, backlogs) = (Stamp::now(), Mutex::default(), OnceLock::new());
        Self { metrics, watch_timeout, heartbeat, heartbeat_limit, watches, backlogs }
    }

    /// For who will not wait a minute.
    #[cfg(test)]
    pub(crate) fn with_heartbeat_limit(metrics: Arc<Metrics>, limit: Duration) -> Arc<Self> {
        Arc::new(Self::of(metrics, Duration::from_secs(200), limit))
    }

    /// After which each watch ends by itself.
    pub(crate) fn watch_timeout(&self) -> Duration {
        self.watch_timeout
    }

    /// Another stream of a watch.
    pub(crate) fn watch(&self, what: &'static str) -> Arc<WatchSigns> {
        let signs =
            WatchSigns { what, metrics: Arc::clone(&self.metrics), alive: Stamp::now(), fresh: Stamp::now() };
        let signs = Arc::new(signs);
        self.watches.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&signs));
        signs
    }

    /// The queues there are.
    pub(crate) fn queues(&self, backlogs: Vec<Arc<Backlog>>) {
        // Told once, at the start.
        let _ = self.backlogs.set(backlogs);
    }

    /// Shows as long as the runtime runs tasks that it does.
    pub(crate) async fn beat(self: Arc<Self>) {
        loop {
            self.heartbeat.set();
            tokio::time::sleep(HEARTBEAT).await;
        }
    }

    /// How long ago each watch was known to be up to date; of several streams the one that is most behind.
    pub(crate) fn watch_ages(&self) -> Vec<(&'static str, Duration)> {
        let mut ages: Vec<(&'static str, Duration)> = Vec::new();
        for signs in self.watches.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let age = signs.fresh.age();
            match ages.iter_mut().find(|(what, _)| *what == signs.what) {
                Some((_, oldest)) => *oldest = age.max(*oldest),
                None => ages.push((signs.what, age)),
            }
        }
        ages
    }

    /// Each queue with what it shows.
    pub(crate) fn queue_states(&self) -> Vec<(&'static str, State)> {
        self.backlogs
            .get()
            .into_iter()
            .flatten()
            .map(|backlog| (backlog.controller, backlog.state()))
            .collect()
    }

    /// What is stuck now.
    pub(crate) fn stuck(&self) -> Vec<Stuck> {
        let watches: Vec<_> = {
            let watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
            watches.iter().map(|signs| (signs.what, signs.alive.age())).collect()
        };
        judge(
            (self.heartbeat.age(), self.heartbeat_limit),
            (&watches, self.watch_timeout * WATCH_LIMITS),
            &self.queue_states(),
        )
    }
}

/// Something that no longer goes on by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stuck {
    /// No task runs.
    Runtime(Duration),
    /// A watch waits for an answer that does not come.
    Watch(&'static str, Duration),
    /// A controller takes nothing from its queue.
    Queue(&'static str, Duration),
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stuck::Runtime(age) => write!(f, "no task has run for {} s", age.as_secs()),
            Stuck::Watch(what, age) => {
                write!(f, "the watch of {what} has given no sign of life for {} s", age.as_secs())
            }
            Stuck::Queue(controller, age) => {
                write!(
                    f,
                    "the {controller} controller has begun no round for {} s, though some are due",
                    age.as_secs()
                )
            }
        }
    }
}

/// The judgement: ages of the heartbeat, of each watch's last sign, and of the queues.
fn judge(
    (heartbeat, heartbeat_limit): (Duration, Duration),
    (watches, watch_limit): (&[(&'static str, Duration)], Duration),
    queues: &[(&'static str, State)],
) -> Vec<Stuck> {
    if heartbeat > heartbeat_limit {
        // Nothing else can go on then, and nothing else is the cause.
        return vec![Stuck::Runtime(heartbeat)];
    }
    let watches = watches.iter().filter(|(_, age)| *age > watch_limit);
    let watches = watches.map(|(what, age)| Stuck::Watch(what, *age));
    let idle = |state: &State| state.oldest.min(state.idle);
    let queues = queues.iter().filter(|(_, state)| idle(state) > QUEUE_LIMIT);
    let queues = queues.map(|(controller, state)| Stuck::Queue(controller, idle(state)));
    watches.chain(queues).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(600);

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn queue(oldest: u64, idle: u64) -> State {
        State { waiting: 1, oldest: secs(oldest), idle: secs(idle), ..State::default() }
    }

    #[test]
    fn a_silent_runtime_a_silent_watch_and_a_queue_that_stands_are_stuck_and_nothing_else_is() {
        let well = |age| {
            judge((secs(1), HEARTBEAT_LIMIT), (&[("Secrets", secs(age))], LIMIT), &[("sync", queue(0, 0))])
        };
        assert_eq!(well(0), []);
        assert_eq!(well(600), []);
        assert_eq!(well(601), [Stuck::Watch("Secrets", secs(601))]);
        let runtime = judge((secs(61), HEARTBEAT_LIMIT), (&[("Secrets", secs(9000))], LIMIT), &[]);
        assert_eq!(runtime, [Stuck::Runtime(secs(61))]);
        for (oldest, idle, is_stuck) in [
            (601, 601, true),
            // Many wait, and are taken one after the other.
            (9000, 1, false),
            // Nothing was due for a day, and now something is.
            (1, 86_400, false),
            (0, 86_400, false),
        ] {
            let found =
                judge((secs(0), HEARTBEAT_LIMIT), (&[], LIMIT), &[("certificate", queue(oldest, idle))]);
            assert_eq!(!found.is_empty(), is_stuck, "{oldest} {idle}");
        }
    }

    #[test]
    fn an_error_is_a_sign_of_life_and_no_sign_that_what_is_shown_is_so() {
        let signs = Signs::new(Arc::default(), secs(200));
        let watch = signs.watch("Secrets");
        let past = Instant::now().checked_sub(secs(3)).unwrap();
        for stamp in [&watch.alive, &watch.fresh] {
            *stamp.0.lock().unwrap() = past;
        }
        watch.failed();
        assert!(watch.alive.age() < secs(3) && watch.fresh.age() >= secs(3));
        watch.is_fresh();
        assert!(watch.fresh.age() < secs(3));
        assert_eq!(signs.watch_ages().len(), 1);
        assert!(
            Metrics::encode(&signs.metrics)
                .contains("keyvault_sync_watch_failures_total{watch=\"Secrets\"} 1")
        );
    }

    #[test]
    fn what_is_stuck_is_said_in_words() {
        let words = Stuck::Watch("TLS Secrets", secs(700)).to_string();
        assert_eq!(words, "the watch of TLS Secrets has given no sign of life for 700 s");
    }
}
