//! The single exit of every outcome: Event, log line, metric.
//! What the status says is computed beside, in each controller's `status`.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use keyvault_sync_api::constants::EVENT_REPORTER;
use keyvault_sync_api::limits;
use keyvault_sync_core::reason::{Fault, Reason};
use kube::api::{Api, ObjectMeta, PostParams};

use crate::context::Context;
use crate::kubernetes::call;
use crate::watch::describe;

/// An Event's note has at most 1,024 bytes; the longest character has four.
const NOTE_CHARACTERS_MAX: u32 = 256;
const NOTE_BYTES_MAX: usize = 1_024;
/// Longest part of an object's name that an Event's name repeats: beyond about 236 characters the API server refuses.
const NAME_PART_MAX: usize = 200;

/// Whether a person has to read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weight {
    /// Something was done.
    Normal,
    /// Something is wrong.
    Warning,
}

/// One occurrence.
#[derive(Clone, Debug)]
pub(crate) struct Occurrence<'a> {
    /// What it is about.
    pub regarding: ObjectReference,
    /// Its companion: the claim.
    pub related: Option<ObjectReference>,
    /// Whether a person has to read it.
    pub weight: Weight,
    /// One word.
    pub reason: &'a str,
    /// What was being done, one word.
    pub action: &'a str,
    /// A sentence.
    pub note: &'a str,
}

/// Tells an occurrence as an Event with its own text. kube's `Recorder` is not used: it leaves the note out of its key
/// and repeats an old one.
pub(crate) async fn event(context: &Context, occurrence: Occurrence<'_>) {
    // An object of the cluster's scope has its Events in `default`.
    let namespace = occurrence.regarding.namespace.clone().unwrap_or_else(|| "default".into());
    let mut dice = [0_u8; 8];
    // Without randomness the name may clash, and the Event is lost; nothing else is.
    let _ = getrandom::fill(&mut dice);
    let about: String =
        occurrence.regarding.name.as_deref().unwrap_or_default().chars().take(NAME_PART_MAX).collect();
    let event = Event {
        metadata: ObjectMeta {
            name: Some(format!("{about}.{:016x}", u64::from_be_bytes(dice))),
            namespace: Some(namespace.clone()),
            ..ObjectMeta::default()
        },
        regarding: Some(occurrence.regarding),
        related: occurrence.related,
        type_: Some(match occurrence.weight {
            Weight::Normal => "Normal".into(),
            Weight::Warning => "Warning".into(),
        }),
        reason: Some(occurrence.reason.to_owned()),
        action: Some(occurrence.action.to_owned()),
        note: Some(note(occurrence.note)),
        event_time: Some(MicroTime(Timestamp::now())),
        reporting_controller: Some(EVENT_REPORTER.to_owned()),
        reporting_instance: Some(context.instance.clone()),
        ..Event::default()
    };
    let api: Api<Event> = Api::namespaced(context.client.clone(), &namespace);
    if let Err(error) = call("an Event", api.create(&PostParams::default(), &event)).await {
        // A namespace that is going takes no Events: expected, and the log has the sentence.
        tracing::debug!(namespace, reason = occurrence.reason, error = %describe(&error), "Event not written");
    }
}

fn note(text: &str) -> String {
    if text.len() <= NOTE_BYTES_MAX { text.to_owned() } else { limits::cut(text, NOTE_CHARACTERS_MAX) }
}

/// Where an outcome belongs: the stable fields of a log line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    /// Which controller.
    pub controller: &'static str,
    /// The object's kind.
    pub kind: &'a str,
    /// The owner's namespace.
    pub namespace: &'a str,
    /// The owner's name.
    pub name: &'a str,
    /// The certificate, where it is about one.
    pub certificate: &'a str,
    /// The vault's host, where it is about one.
    pub vault: &'a str,
}

/// Counts and logs an outcome; a change at the level of who can help, a repetition at debug.
pub(crate) fn outcome(context: &Context, subject: Subject<'_>, reason: Reason, message: &str, is_news: bool) {
    context.metrics.reconciles.inc([subject.controller, reason.as_str()]);
    let Subject { controller, kind, namespace, name, certificate, vault } = subject;
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                controller,
                kind,
                namespace,
                name,
                certificate,
                vault,
                reason = reason.as_str(),
                "{message}"
            )
        };
    }
    match reason.fault() {
        _ if !is_news => line!(debug),
        None | Some(Fault::Invalid) => line!(info),
        Some(Fault::Blocked) => line!(warn),
        Some(Fault::Transient) => line!(info),
        Some(Fault::Bug) => line!(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_fits_an_event_whatever_its_letters() {
        for text in ["short".to_owned(), "x".repeat(1_024), "x".repeat(5_000), "\u{1F510}".repeat(400)] {
            assert!(note(&text).len() <= NOTE_BYTES_MAX);
        }
        assert_eq!(note(&"x".repeat(1_024)).len(), 1_024);
    }
}
