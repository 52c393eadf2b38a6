//! How objects are chosen: by labels, by globs over names, by annotations.
//! Whether an object matches is decided elsewhere.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{limits, schema};

/// Labels that an object must have. Everything stated must hold; stating nothing matches every object.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    /// Labels with these values, for example sync: "true".
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::labels")]
    pub match_labels: BTreeMap<String, String>,

    /// Requirements on labels that a value alone cannot state.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = limits::SELECTOR_TERMS_MAX))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub match_expressions: Vec<LabelRequirement>,
}

/// One requirement on one label.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "self.operator in ['In', 'NotIn'] ? has(self.values) && size(self.values) > 0 \
         : !has(self.values) || size(self.values) == 0"
    ).message("operators In and NotIn need values; Exists and DoesNotExist take none")
)]
pub struct LabelRequirement {
    /// Key of the label, for example app.kubernetes.io/name.
    #[schemars(schema_with = "schema::label_key")]
    pub key: String,

    /// In: the label has one of the values. NotIn: it has none of them, or is missing. Exists: it is there,
    /// whatever its value. DoesNotExist: it is missing.
    pub operator: LabelOperator,

    /// Values of the label; needed for In and NotIn, not allowed for Exists and DoesNotExist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::label_values")]
    pub values: Vec<String>,
}

/// How a requirement compares a label.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelOperator {
    /// The label has one of the values.
    In,
    /// The label has none of the values, or is missing.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is missing.
    DoesNotExist,
}

/// Namespaces. Everything stated must hold; stating nothing matches every namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceSelector {
    /// The namespace's name must match one of these. * stands for any characters, ? for one; for example "team-*".
    /// Default: every name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::namespace_globs")]
    pub names: Vec<String>,

    /// The namespace's name must match none of these. * stands for any characters, ? for one; for example "kube-*".
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::namespace_globs")]
    pub exclude_names: Vec<String>,

    /// Labels the namespace must have, for example team: web. Whoever may label a namespace can add it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::labels")]
    pub match_labels: BTreeMap<String, String>,
}

/// Secrets of type kubernetes.io/tls in one namespace. Everything stated must hold; stating nothing matches them all.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SecretSelector {
    /// Labels the Secret must have.
    #[serde(flatten)]
    pub labels: LabelSelector,

    /// The Secret's name must match one of these. * stands for any characters, ? for one; for example "*-tls".
    /// Default: every name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::secret_name_globs")]
    pub names: Vec<String>,

    /// The Secret's name must match none of these. * stands for any characters, ? for one; for example "*-internal".
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::secret_name_globs")]
    pub exclude_names: Vec<String>,

    /// Annotations the Secret must have, each with a value that matches.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = limits::SELECTOR_TERMS_MAX))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub annotations: Vec<AnnotationMatch>,
}

/// An annotation that must be there, with a value that matches.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AnnotationMatch {
    /// Key of the annotation, for example cert-manager.io/certificate-name.
    #[schemars(schema_with = "schema::label_key")]
    pub name: String,

    /// The annotation's value must match one of these. * stands for any characters, ? for one.
    /// Default: every value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::value_globs")]
    pub values: Vec<String>,

    /// The annotation's value must match none of these. * stands for any characters, ? for one; for example
    /// "internal-*".
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::value_globs")]
    pub exclude_values: Vec<String>,
}
