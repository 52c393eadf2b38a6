//! The watch of one kind, in a task of its own: keeps a store up to date and tells of every change once.
//! Who is woken by a change is left to `world`.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use kube::Client;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::{ObjectRef, Store, store::Writer};
use kube::runtime::watcher::{self, Event, watcher};
use serde::de::DeserializeOwned;

use crate::signs::Signs;
use crate::traffic;

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

/// The configuration every watch has: it ends by itself after `timeout`, and is renewed.
pub(crate) fn config(timeout: Duration) -> watcher::Config {
    let secs = u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX).max(1);
    watcher::Config::default().timeout(secs).page_size(PAGE_SIZE)
}

/// Objects of one kind: of one namespace, or all there are.
pub(crate) struct Scope<K> {
    namespace: Option<String>,
    client: Client,
    api: fn(Client, Option<&str>) -> Api<K>,
}

impl<K: kube::Resource<DynamicType = ()>> Scope<K> {
    /// All there are.
    pub(crate) fn all(client: &Client) -> Vec<Self> {
        vec![Self { namespace: None, client: client.clone(), api: |client, _| Api::all(client) }]
    }

    /// Those of these namespaces; all there are if there is no word of namespaces.
    pub(crate) fn of(client: &Client, namespaces: Option<&[String]>) -> Vec<Self>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    {
        let Some(namespaces) = namespaces else { return Self::all(client) };
        let one = |namespace: &String| Self {
            namespace: Some(namespace.clone()),
            client: client.clone(),
            api: |client, namespace| Api::namespaced(client, namespace.unwrap_or_default()),
        };
        namespaces.iter().map(one).collect()
    }
}

/// Watches until the task is dropped, by one stream for each of the `scopes`, which do not overlap.
/// `trim` removes what nobody needs before the store keeps it.
pub(crate) async fn run<K>(
    what: &'static str,
    signs: &Signs,
    scopes: Vec<Scope<K>>,
    config: watcher::Config,
    writer: Writer<K>,
    trim: impl Fn(&mut K),
    mut tell: impl FnMut(Change<K>),
) where
    K: kube::Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Default + Eq + Hash + Clone + Debug,
{
    let mut kept = Kept::new(writer, scopes.iter().map(|scope| scope.namespace.clone()));
    let parts: Vec<_> = scopes.iter().map(|_| signs.watch(what)).collect();
    let streams = scopes.into_iter().zip(&parts).enumerate().map(|(part, (scope, signs))| {
        let api = (scope.api)(traffic::watched(scope.client, Arc::clone(signs)), scope.namespace.as_deref());
        unending(api, config.clone()).map(move |event| (part, event)).boxed()
    });
    let mut events = futures::stream::select_all(streams);
    while let Some((part, event)) = events.next().await {
        if let (Err(_), Some(signs)) = (&event, parts.get(part)) {
            signs.failed();
        }
        match event {
            Ok(mut event) => {
                if let Event::Apply(object) | Event::Delete(object) | Event::InitApply(object) = &mut event {
                    trim(object);
                }
                kept.handle(part, event, &mut tell);
            }
            Err(error) => {
                tracing::warn!(watch = what, error = %describe(&error), "watch failed, it is taken up again");
                if is_refused(&error) {
                    kept.refused(part, &mut tell);
                }
            }
        }
    }
}

/// One stream that is made anew whenever it ends, or would begin with 410 for ever.
fn unending<K>(
    api: Api<K>,
    config: watcher::Config,
) -> impl Stream<Item = Result<Event<K>, watcher::Error>> + Send
where
    K: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let begin = move || watcher(api.clone(), config.clone()).default_backoff().boxed();
    futures::stream::unfold((begin(), begin), async |(mut events, begin)| {
        loop {
            match events.next().await {
                Some(Err(error)) if is_gone(&error) => {
                    tokio::time::sleep(REBUILD_DELAY).await;
                    return Some((Err(error), (begin(), begin)));
                }
                Some(event) => return Some((event, (events, begin))),
                None => {
                    tokio::time::sleep(REBUILD_DELAY).await;
                    events = begin();
                }
            }
        }
    })
}

/// A store, and what its streams have listed so far.
struct Kept<K>
where
    K: kube::Resource + Clone + 'static,
    K::DynamicType: Default + Eq + Hash + Clone,
{
    writer: Writer<K>,
    store: Store<K>,
    parts: Vec<Part<K>>,
    /// Whether every stream has listed its part once: the store is filled then, not before.
    is_filled: bool,
}

/// What one stream shows.
struct Part<K> {
    /// Whose objects it shows: a namespace's, or all.
    namespace: Option<String>,
    /// The list under way; until the store is filled, all that is known.
    listed: HashMap<Key, K>,
    is_listed: bool,
}

/// Namespace and name.
type Key = (Option<String>, String);

fn key<K: kube::Resource>(object: &K) -> Key {
    (object.meta().namespace.clone(), object.meta().name.clone().unwrap_or_default())
}

impl<K> Kept<K>
where
    K: kube::Resource + Clone + 'static,
    K::DynamicType: Default + Eq + Hash + Clone,
{
    fn new(writer: Writer<K>, namespaces: impl Iterator<Item = Option<String>>) -> Self {
        let part = |namespace| Part { namespace, listed: HashMap::new(), is_listed: false };
        let store = writer.as_reader();
        Self { writer, store, parts: namespaces.map(part).collect(), is_filled: false }
    }

    fn handle(&mut self, part: usize, event: Event<K>, tell: &mut impl FnMut(Change<K>)) {
        let is_filled = self.is_filled;
        let Some(shown) = self.parts.get_mut(part) else { return };
        match event {
            Event::Init => {
                shown.listed.clear();
                // A list that begins anew before the store is filled is not whole yet.
                shown.is_listed = false;
            }
            Event::InitApply(object) => drop(shown.listed.insert(key(&object), object)),
            Event::InitDone => {
                shown.is_listed = true;
                if is_filled {
                    self.relisted(part, tell);
                } else if self.parts.iter().all(|part| part.is_listed) {
                    self.fill(tell);
                }
            }
            Event::Apply(object) if !is_filled => drop(shown.listed.insert(key(&object), object)),
            Event::Delete(object) if !is_filled => drop(shown.listed.remove(&key(&object))),
            Event::Apply(object) => {
                let before = self.store.get(&ObjectRef::from_obj(&object));
                let now = Arc::new(object.clone());
                self.writer.apply_watcher_event(&Event::Apply(object));
                tell(Change::Applied { before, now });
            }
            Event::Delete(object) => {
                let gone = Arc::new(object.clone());
                self.writer.apply_watcher_event(&Event::Delete(object));
                tell(Change::Gone(gone));
            }
        }
    }

    /// One part may not be seen: a namespace that is gone, or whose role is not there yet. The others do not wait for it; what is in it
    /// counts as not known, and nothing is given up for that.
    fn refused(&mut self, part: usize, tell: &mut impl FnMut(Change<K>)) {
        if self.is_filled {
            return;
        }
        if let Some(shown) = self.parts.get_mut(part).filter(|shown| shown.namespace.is_some()) {
            shown.listed.clear();
            shown.is_listed = true;
        }
        if self.parts.iter().all(|part| part.is_listed) {
            self.fill(tell);
        }
    }

    /// Every part is listed for the first time.
    fn fill(&mut self, tell: &mut impl FnMut(Change<K>)) {
        self.is_filled = true;
        self.writer.apply_watcher_event(&Event::Init);
        let mut all = Vec::new();
        for part in &mut self.parts {
            for object in std::mem::take(&mut part.listed).into_values() {
                all.push(Arc::new(object.clone()));
                self.writer.apply_watcher_event(&Event::InitApply(object));
            }
        }
        self.writer.apply_watcher_event(&Event::InitDone);
        all.into_iter().for_each(|now| tell(Change::Applied { before: None, now }));
    }

    /// One part is listed anew. What was deleted while no watch stood is missing from it, and nothing else tells of that.
    fn relisted(&mut self, part: usize, tell: &mut impl FnMut(Change<K>)) {
        let Some(shown) = self.parts.get_mut(part) else { return };
        let listed = std::mem::take(&mut shown.listed);
        let mut missing = self.store.state();
        missing.retain(|known| {
            let is_shown = shown.namespace.is_none() || known.meta().namespace == shown.namespace;
            is_shown && !listed.contains_key(&key(known.as_ref()))
        });
        let mut changes = Vec::new();
        for object in listed.into_values() {
            let before = self.store.get(&ObjectRef::from_obj(&object));
            changes.push(Change::Applied { before, now: Arc::new(object.clone()) });
            self.writer.apply_watcher_event(&Event::Apply(object));
        }
        for gone in missing {
            self.writer.apply_watcher_event(&Event::Delete(K::clone(&gone)));
            changes.push(Change::Gone(gone));
        }
        // Told only when the store shows all of it.
        changes.into_iter().for_each(tell);
    }
}

fn is_gone(error: &watcher::Error) -> bool {
    code(error) == Some(410)
}

fn is_refused(error: &watcher::Error) -> bool {
    code(error) == Some(403)
}

/// The status of the API server's answer, where it gave one.
fn code(error: &watcher::Error) -> Option<u16> {
    let status = match error {
        watcher::Error::WatchError(status) => Some(status),
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => Some(status),
        _ => None,
    };
    status.map(|status| status.code)
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

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::ResourceExt;
    use serde_json::json;

    use super::*;

    fn object(namespace: &str, name: &str, version: &str) -> ConfigMap {
        serde_json::from_value(json!({
            "metadata": {"namespace": namespace, "name": name, "resourceVersion": version},
        }))
        .unwrap()
    }

    /// What a store is told, in words: `+a/x 1` new, `~a/x 2` changed, `-a/x` gone.
    struct Told {
        kept: Kept<ConfigMap>,
        words: Vec<String>,
    }

    impl Told {
        fn new(namespaces: &[Option<&str>]) -> Self {
            let namespaces = namespaces.iter().map(|namespace| namespace.map(str::to_owned));
            Self { kept: Kept::new(Writer::default(), namespaces), words: Vec::new() }
        }

        fn see(&mut self, part: usize, event: Event<ConfigMap>) {
            let words = &mut self.words;
            self.kept.handle(part, event, &mut |change| {
                let name = |it: &ConfigMap| format!("{}/{}", it.namespace().unwrap(), it.name_any());
                words.push(match change {
                    Change::Applied { before, now } => {
                        let sign = if before.is_some() { '~' } else { '+' };
                        format!("{sign}{} {}", name(&now), now.resource_version().unwrap())
                    }
                    Change::Gone(gone) => format!("-{}", name(&gone)),
                });
            });
        }

        fn list(&mut self, part: usize, objects: &[ConfigMap]) {
            self.see(part, Event::Init);
            objects.iter().for_each(|object| self.see(part, Event::InitApply(object.clone())));
            self.see(part, Event::InitDone);
        }

        fn told(&mut self, expected: &[&str]) {
            self.words.sort();
            assert_eq!(self.words, expected);
            self.words.clear();
        }

        fn shows(&self, expected: &[&str]) {
            let mut names: Vec<_> = self.kept.store.state().iter().map(|it| it.name_any()).collect();
            names.sort();
            assert_eq!(names, expected);
        }
    }

    #[test]
    fn a_store_is_filled_when_every_part_is_and_a_new_list_concerns_its_own_part_alone() {
        let mut seen = Told::new(&[Some("a"), Some("b")]);
        seen.list(0, &[object("a", "x", "1"), object("a", "y", "1")]);
        seen.see(0, Event::Apply(object("a", "x", "2")));
        seen.see(0, Event::Delete(object("a", "y", "1")));
        seen.told(&[]);
        assert!(!seen.kept.is_filled);
        seen.list(1, &[object("b", "z", "1")]);
        seen.told(&["+a/x 2", "+b/z 1"]);
        seen.shows(&["x", "z"]);
        // While no watch stood, x was deleted and v made.
        seen.list(0, &[object("a", "v", "3")]);
        seen.told(&["+a/v 3", "-a/x"]);
        seen.shows(&["v", "z"]);
        seen.see(1, Event::Apply(object("b", "z", "4")));
        seen.see(0, Event::Delete(object("a", "v", "3")));
        seen.told(&["-a/v", "~b/z 4"]);
        seen.list(1, &[object("b", "z", "4")]);
        seen.told(&["~b/z 4"]);
        seen.shows(&["z"]);
    }

    #[test]
    fn a_list_that_begins_anew_before_all_are_listed_is_waited_for() {
        let mut seen = Told::new(&[Some("a"), Some("b")]);
        seen.list(0, &[object("a", "x", "1"), object("a", "y", "1")]);
        seen.see(0, Event::Init);
        seen.see(0, Event::InitApply(object("a", "x", "1")));
        seen.list(1, &[]);
        assert!(!seen.kept.is_filled, "filled with half a list");
        seen.see(0, Event::InitApply(object("a", "y", "1")));
        seen.see(0, Event::InitDone);
        seen.told(&["+a/x 1", "+a/y 1"]);
        seen.shows(&["x", "y"]);
    }

    #[test]
    fn a_namespace_that_may_not_be_seen_holds_up_no_other_and_is_seen_when_it_may() {
        let mut seen = Told::new(&[Some("a"), Some("b")]);
        seen.list(0, &[object("a", "x", "1")]);
        seen.kept.refused(1, &mut |_| {});
        assert!(seen.kept.is_filled);
        seen.shows(&["x"]);
        seen.words.clear();
        seen.list(1, &[object("b", "z", "1")]);
        seen.told(&["+b/z 1"]);
        // Who serves the whole cluster waits for its right to.
        let mut all = Told::new(&[None]);
        all.kept.refused(0, &mut |_| {});
        assert!(!all.kept.is_filled);
    }

    #[test]
    fn a_list_that_breaks_off_and_begins_again_counts_from_its_second_beginning() {
        let mut seen = Told::new(&[None]);
        seen.list(0, &[object("a", "x", "1")]);
        seen.told(&["+a/x 1"]);
        seen.see(0, Event::Init);
        seen.see(0, Event::InitApply(object("a", "half", "1")));
        seen.shows(&["x"]);
        seen.list(0, &[object("a", "x", "1"), object("a", "y", "2")]);
        seen.told(&["+a/y 2", "~a/x 1"]);
        seen.shows(&["x", "y"]);
    }
}
