//! One watch of one kind, in a task of its own: keeps a store up to date and tells of every change once.
//! Who is woken by a change is left to `world`.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::{ObjectRef, Store, store::Writer};
use kube::runtime::watcher::{self, Event, watcher};
use serde::de::DeserializeOwned;

/// AKS drops connections that were idle for 240 s without a word; a watch is renewed before.
const WATCH_SECS: u32 = 200;
/// Objects a page of the first list.
const PAGE_SIZE: u32 = 250;
/// How long after a broken watch stream another is made.
const REBUILD_DELAY: Duration = Duration::from_secs(1);

/// What happened to an object. The store shows it already.
#[derive(Debug)]
pub(crate) enum Change<K> {
    /// It was made or changed; `before` is what the store had.
    Applied {
        /// As it was, if it was known.
        before: Option<Arc<K>>,
        /// As it is.
        now: Arc<K>,
    },
    /// It is gone.
    Gone(Arc<K>),
}

/// The configuration every watch has.
pub(crate) fn config() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_SECS).page_size(PAGE_SIZE)
}

/// Watches until the task is dropped. `trim` removes what nobody needs before the store keeps it.
pub(crate) async fn run<K>(
    what: &'static str,
    api: Api<K>,
    config: watcher::Config,
    mut writer: Writer<K>,
    trim: impl Fn(&mut K),
    mut tell: impl FnMut(Change<K>),
) where
    K: kube::Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Default + Eq + Hash + Clone + Debug,
{
    let store = writer.as_reader();
    loop {
        let mut relisted: Vec<K> = Vec::new();
        let mut events = watcher(api.clone(), config.clone()).default_backoff().boxed();
        while let Some(event) = events.next().await {
            let mut event = match event {
                Ok(event) => event,
                Err(error) => {
                    tracing::warn!(watch = what, error = %describe(&error), "watch failed, it is taken up again");
                    // A list that starts with 410 would start with it for ever: begin anew.
                    if is_gone(&error) {
                        break;
                    }
                    continue;
                }
            };
            match &mut event {
                Event::Apply(object) | Event::Delete(object) | Event::InitApply(object) => trim(object),
                Event::Init => relisted.clear(),
                Event::InitDone => {}
            }
            handle(event, &mut relisted, &store, &mut writer, &mut tell);
        }
        tokio::time::sleep(REBUILD_DELAY).await;
    }
}

fn handle<K>(
    event: Event<K>,
    relisted: &mut Vec<K>,
    store: &Store<K>,
    writer: &mut Writer<K>,
    tell: &mut impl FnMut(Change<K>),
) where
    K: kube::Resource + Clone + 'static,
    K::DynamicType: Default + Eq + Hash + Clone,
{
    let key = |object: &K| ObjectRef::from_obj(object);
    match &event {
        Event::Apply(object) => {
            let before = store.get(&key(object));
            let now = Arc::new(object.clone());
            writer.apply_watcher_event(&event);
            tell(Change::Applied { before, now });
        }
        Event::Delete(object) => {
            let gone = Arc::new(object.clone());
            writer.apply_watcher_event(&event);
            tell(Change::Gone(gone));
        }
        Event::Init => writer.apply_watcher_event(&event),
        Event::InitApply(object) => {
            relisted.push(object.clone());
            writer.apply_watcher_event(&event);
        }
        Event::InitDone => {
            // What was deleted while no watch stood is missing from the new list, and nothing else tells of it.
            let mut before: HashMap<_, _> =
                store.state().into_iter().map(|known| (key(&known), known)).collect();
            writer.apply_watcher_event(&event);
            for object in relisted.drain(..) {
                tell(Change::Applied { before: before.remove(&key(&object)), now: Arc::new(object) });
            }
            before.into_values().for_each(|gone| tell(Change::Gone(gone)));
        }
    }
}

fn is_gone(error: &watcher::Error) -> bool {
    let status = match error {
        watcher::Error::WatchError(status) => Some(status),
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => Some(status),
        _ => None,
    };
    status.is_some_and(|status| status.code == 410)
}

/// An error with its causes, in a line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
