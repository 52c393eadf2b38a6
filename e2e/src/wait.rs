//! Waiting for a condition instead of for a time. What is waited for is the caller's probe; here is only the patience,
//! and a failure that says what was missing and what was seen last.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use anyhow::bail;
use kube::Api;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout};

/// Long enough for a loaded two-core machine that builds something else meanwhile; reached only by a failure.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// The pause between two looks grows from the first to the second: quick answers are seen quickly, slow ones cost little.
const POLL_FIRST: Duration = Duration::from_millis(10);
const POLL_LAST: Duration = Duration::from_millis(250);

/// What a probe saw.
#[derive(Debug)]
pub enum Seen<T> {
    /// What was waited for.
    Done(T),
    /// Not yet; the state that was seen instead, for the message of a failure.
    NotYet(String),
}

/// Asks `probe` until it says `Done`. An error of the probe counts as not yet: a server that restarts comes back.
///
/// # Errors
/// `PATIENCE` is over: names `what` and the state last seen.
pub async fn until<T, F>(what: &str, probe: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<Seen<T>>>,
{
    until_within(PATIENCE, what, probe).await
}

/// `until` with another patience.
///
/// # Errors
/// As `until`.
pub async fn until_within<T, F>(
    patience: Duration,
    what: &str,
    mut probe: impl FnMut() -> F,
) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<Seen<T>>>,
{
    let deadline = Instant::now() + patience;
    let mut last = String::from("nothing");
    let mut pause = POLL_FIRST;
    while let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        match timeout(left, probe()).await {
            Ok(Ok(Seen::Done(value))) => return Ok(value),
            Ok(Ok(Seen::NotYet(state))) => last = state,
            Ok(Err(error)) => last = format!("an error: {error:#}"),
            Err(_) => last = format!("no answer to the last look; before it: {last}"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(POLL_LAST);
    }
    bail!("waited {} s for {what}; last seen: {last}", patience.as_secs())
}

/// Waits until the object `name` satisfies `condition`, and returns it.
///
/// # Errors
/// `PATIENCE` is over: names `what` and the object as last seen. Do not use it on Secrets: their contents would be in the
/// message.
pub async fn object<K>(
    api: &Api<K>,
    name: &str,
    what: &str,
    condition: impl Fn(&K) -> bool,
) -> anyhow::Result<K>
where
    K: Clone + Debug + DeserializeOwned,
{
    until(&format!("{name}: {what}"), || async {
        Ok(match api.get_opt(name).await? {
            Some(found) if condition(&found) => Seen::Done(found),
            Some(found) => Seen::NotYet(format!("{found:#?}")),
            None => Seen::NotYet(format!("{name} does not exist")),
        })
    })
    .await
}

/// Waits until the object `name` is gone.
///
/// # Errors
/// `PATIENCE` is over: says that it still exists and, where that is so, that its deletion has begun.
pub async fn gone<K>(api: &Api<K>, name: &str) -> anyhow::Result<()>
where
    K: Clone + Debug + DeserializeOwned + kube::Resource,
{
    until(&format!("{name} to be gone"), || async {
        Ok(match api.get_opt(name).await? {
            None => Seen::Done(()),
            Some(found) => {
                Seen::NotYet(format!("it exists, deletion begun: {:?}", found.meta().deletion_timestamp))
            }
        })
    })
    .await
}
