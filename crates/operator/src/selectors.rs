//! Selectors, from the API's words to core's.
//! Whether an object matches is left to `keyvault_sync_core::{grants, selection}`.

use std::collections::BTreeMap;

use keyvault_sync_api::{LabelOperator, LabelSelector, NamespaceSelector, SecretSelector};
use keyvault_sync_core::labels::Requirement;
use keyvault_sync_core::selection::{NamespaceSelection, SecretSelection};

/// What a label selector requires.
pub(crate) fn requirements(selector: &LabelSelector) -> Vec<Requirement> {
    let expressions = selector.match_expressions.iter().map(|one| match one.operator {
        LabelOperator::In => Requirement::In(one.key.clone(), one.values.clone()),
        LabelOperator::NotIn => Requirement::NotIn(one.key.clone(), one.values.clone()),
        LabelOperator::Exists => Requirement::Exists(one.key.clone()),
        LabelOperator::DoesNotExist => Requirement::DoesNotExist(one.key.clone()),
    });
    equal(&selector.match_labels).chain(expressions).collect()
}

/// Which Secrets of a namespace are meant.
pub(crate) fn secrets(selector: &SecretSelector) -> SecretSelection {
    let all = SecretSelection::new(requirements(&selector.labels), &selector.names, &selector.exclude_names);
    selector
        .annotations
        .iter()
        .fold(all, |some, one| some.annotated(&one.name, &one.values, &one.exclude_values))
}

/// Which namespaces are meant.
pub(crate) fn namespaces(selector: &NamespaceSelector) -> NamespaceSelection {
    let labels = equal(&selector.match_labels).collect();
    NamespaceSelection::new(&selector.names, &selector.exclude_names, labels)
}

fn equal(labels: &BTreeMap<String, String>) -> impl Iterator<Item = Requirement> {
    labels.iter().map(|(key, value)| Requirement::In(key.clone(), vec![value.clone()]))
}
