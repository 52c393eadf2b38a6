//! Pieces of schema that several kinds share: texts with a rule and a sentence, tags, times, conditions.
//! Which field has which of them is said at the field (`schema_with`).

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray,
};
use keyvault_sync_core::ownership::{RESERVED_TAG_PREFIX, RESERVED_TAGS, TAG_LENGTH_MAX, USER_TAGS_MAX};
use kube::core::{Message, Rule};
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use crate::limits;

/// One CEL rule with the sentence that a refusal shows.
///
/// Rules and not `pattern`: a refused pattern shows the expression, a refused rule shows the sentence.
fn rule(rule: impl Into<String>, message: impl Into<String>) -> Value {
    json!({"rule": rule.into(), "message": message.into()})
}

/// `self` matches a regular expression (RE2). A raw CEL string, so that backslashes stay what they are.
fn matches(regex: &str) -> String {
    format!("self.matches(r'{regex}')")
}

/// Every item of the list `self` matches a regular expression (RE2).
fn all_match(regex: &str) -> String {
    format!("self.all(x, x.matches(r'{regex}'))")
}

fn text(length_max: u32, rules: &[Value]) -> Schema {
    let mut schema = json_schema!({"type": "string", "minLength": 1, "maxLength": length_max});
    if !rules.is_empty() {
        schema.insert("x-kubernetes-validations".into(), rules.into());
    }
    schema
}

fn texts(items_max: u32, length_max: u32, rules: &[Value]) -> Schema {
    let mut schema = json_schema!({
        "type": "array",
        "maxItems": items_max,
        "items": {"type": "string", "minLength": 1, "maxLength": length_max},
    });
    if !rules.is_empty() {
        schema.insert("x-kubernetes-validations".into(), rules.into());
    }
    schema
}

const OBJECT_NAME: &str = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$";

pub(crate) fn object_name(_: &mut SchemaGenerator) -> Schema {
    let message = "must be the name of a Kubernetes object: lower-case letters, digits, '-' and '.', \
                   beginning and ending with a letter or digit";
    text(limits::OBJECT_NAME_LENGTH_MAX, &[rule(matches(OBJECT_NAME), message)])
}

pub(crate) fn namespace(_: &mut SchemaGenerator) -> Schema {
    text(limits::LABEL_LENGTH_MAX, &[])
}

pub(crate) fn data_key(_: &mut SchemaGenerator) -> Schema {
    let message =
        "must be a key of the Secret's data: letters, digits, '-', '_' and '.', for example tls.crt";
    text(limits::OBJECT_NAME_LENGTH_MAX, &[rule(matches("^[-._a-zA-Z0-9]+$"), message)])
}

pub(crate) fn certificate_name(_: &mut SchemaGenerator) -> Schema {
    let message = "must be a name that Key Vault takes: 1 to 127 letters, digits and hyphens, beginning and ending \
                   with a letter or digit, for example web-prod";
    text(
        limits::CERTIFICATE_NAME_LENGTH_MAX,
        &[rule(matches("^[0-9A-Za-z]([0-9A-Za-z-]{0,125}[0-9A-Za-z])?$"), message)],
    )
}

pub(crate) fn guid(_: &mut SchemaGenerator) -> Schema {
    let message =
        "must be a GUID as the Azure portal shows it, for example 11111111-2222-3333-4444-555555555555";
    let regex = "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$";
    text(limits::GUID_LENGTH_MAX, &[rule(matches(regex), message)])
}

pub(crate) fn name_template(_: &mut SchemaGenerator) -> Schema {
    let regex = "^([^{}]|[{](namespace|secret|sync|label:[^{}]+|annotation:[^{}]+)[}])+$";
    let message =
        "knows the placeholders {namespace} {secret} {sync} {label:KEY} {annotation:KEY} and no other braces";
    text(limits::TEMPLATE_LENGTH_MAX, &[rule(matches(regex), message)])
}

pub(crate) fn vault_url(_: &mut SchemaGenerator) -> Schema {
    text(
        limits::URL_LENGTH_MAX,
        &[
            rule(
                matches("^https://[a-z0-9]([-a-z0-9.]*[a-z0-9])?/?$"),
                "must be https:// and the vault's host in lower case and nothing else (no port, path, query, fragment \
                 or user), for example https://contoso.vault.azure.net",
            ),
            rule(
                "self == oldSelf",
                "cannot be changed: create another KeyVault with the new url and point vaultRef to it",
            ),
        ],
    )
}

pub(crate) fn vault_host(_: &mut SchemaGenerator) -> Schema {
    text(
        limits::HOST_LENGTH_MAX,
        &[
            rule(
                matches(OBJECT_NAME),
                "must be a host name in lower case, for example contoso.vault.azure.net",
            ),
            rule("self == oldSelf", "cannot be changed: a certificate of another vault is another claim"),
        ],
    )
}

/// The claim's: of another name only in case, which is kept for display alone.
pub(crate) fn claimed_name(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = certificate_name(generator);
    let immutable = rule(
        "self.lowerAscii() == oldSelf.lowerAscii()",
        "cannot be changed but for its case: a certificate of another name is another claim",
    );
    if let Some(Value::Array(rules)) = schema.get_mut("x-kubernetes-validations") {
        rules.push(immutable);
    }
    schema
}

const CLUSTER_ID: &str = "^[-a-z0-9]{1,63}$";

pub(crate) fn installation(_: &mut SchemaGenerator) -> Schema {
    text(limits::LABEL_LENGTH_MAX, &[])
}

pub(crate) fn cluster_id(_: &mut SchemaGenerator) -> Schema {
    let message = "must be a cluster id: 1 to 63 lower-case letters, digits and hyphens";
    text(limits::CLUSTER_ID_LENGTH_MAX, &[rule(matches(CLUSTER_ID), message)])
}

pub(crate) fn cluster_ids(_: &mut SchemaGenerator) -> Schema {
    let message = "must be cluster ids: 1 to 63 lower-case letters, digits and hyphens; the other cluster's id is \
                   the first part of the tag keyvault-sync-owner";
    let mut schema =
        texts(limits::CLUSTERS_MAX, limits::CLUSTER_ID_LENGTH_MAX, &[rule(all_match(CLUSTER_ID), message)]);
    schema.insert("x-kubernetes-list-type".into(), "set".into());
    schema
}

pub(crate) fn secret_name_globs(_: &mut SchemaGenerator) -> Schema {
    let message =
        "must be names of Secrets, in which * stands for any characters and ? for one, for example *-tls";
    texts(
        limits::PATTERNS_MAX,
        limits::OBJECT_NAME_LENGTH_MAX,
        &[rule(all_match("^[-a-z0-9.*?]+$"), message)],
    )
}

pub(crate) fn namespace_globs(_: &mut SchemaGenerator) -> Schema {
    let message =
        "must be names of namespaces, in which * stands for any characters and ? for one, for example team-*";
    texts(limits::PATTERNS_MAX, limits::LABEL_LENGTH_MAX, &[rule(all_match("^[-a-z0-9*?]+$"), message)])
}

pub(crate) fn value_globs(_: &mut SchemaGenerator) -> Schema {
    texts(limits::PATTERNS_MAX, limits::ANNOTATION_VALUE_LENGTH_MAX, &[])
}

pub(crate) fn grant_globs(_: &mut SchemaGenerator) -> Schema {
    texts(
        limits::PATTERNS_MAX,
        limits::GRANT_PATTERN_LENGTH_MAX,
        &[
            rule(
                all_match("^([{]namespace[}])?[-0-9A-Za-z*?]*$"),
                "must be certificate names of letters, digits and hyphens, in which * stands for any characters and ? \
                 for one; {namespace} may stand only at the start",
            ),
            rule(
                "self.all(x, !x.startsWith('{namespace}') || x == '{namespace}' || x.startsWith('{namespace}--'))",
                "{namespace} must be followed by -- or by nothing, for example {namespace}--*: with less, another \
                 namespace's name could match",
            ),
        ],
    )
}

pub(crate) fn label_key(_: &mut SchemaGenerator) -> Schema {
    let message = "must be the key of a label or annotation, for example app.kubernetes.io/name";
    let regex = "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$";
    text(limits::QUALIFIED_NAME_LENGTH_MAX, &[rule(matches(regex), message)])
}

pub(crate) fn label_values(_: &mut SchemaGenerator) -> Schema {
    let mut schema = texts(limits::SELECTOR_TERMS_MAX, limits::LABEL_LENGTH_MAX, &[]);
    schema.insert("x-kubernetes-list-type".into(), "atomic".into());
    if let Some(Value::Object(items)) = schema.get_mut("items") {
        items.remove("minLength"); // a label's value may be empty
    }
    schema
}

pub(crate) fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": limits::SELECTOR_TERMS_MAX,
        "additionalProperties": {"type": "string", "maxLength": limits::LABEL_LENGTH_MAX},
    })
}

/// Tags of a user, of one place. What two places make together is a rule of the kind.
pub(crate) fn tags(_: &mut SchemaGenerator) -> Schema {
    let outside_prefix: Vec<_> = RESERVED_TAGS
        .iter()
        .filter(|tag| !tag.starts_with(RESERVED_TAG_PREFIX))
        .map(|tag| format!("'{tag}'"))
        .collect();
    let reserved = format!(
        "self.all(k, !k.lowerAscii().startsWith('{RESERVED_TAG_PREFIX}') && !(k.lowerAscii() in [{}]))",
        outside_prefix.join(", ")
    );
    json_schema!({
        "type": "object",
        "maxProperties": USER_TAGS_MAX,
        "additionalProperties": {"type": "string", "maxLength": TAG_LENGTH_MAX},
        "x-kubernetes-validations": [
            rule(
                format!("self.all(k, size(k) >= 1 && size(k) <= {TAG_LENGTH_MAX})"),
                format!("a tag's name must have 1 to {TAG_LENGTH_MAX} characters"),
            ),
            rule(
                reserved,
                format!(
                    "managed-by and names that begin with {RESERVED_TAG_PREFIX} are set by keyvault-sync itself: \
                     choose another name"
                ),
            ),
        ],
    })
}

/// The rule of a kind whose entries have tags of their own: with the resource's they must fit a certificate.
pub(crate) fn tags_together(entries: &str) -> Rule {
    let rule = format!(
        "!has(self.tags) || !has(self.{entries}) || self.{entries}.all(e, !has(e.tags) || \
         size(self.tags) + e.tags.filter(k, !(k in self.tags)).size() <= {USER_TAGS_MAX})"
    );
    let message = format!(
        "the resource's tags and an entry's make more than {USER_TAGS_MAX} together (Key Vault holds 15 and \
         keyvault-sync needs 4): remove some"
    );
    Rule::new(rule).message(Message::Message(message))
}

/// A span of time between two others, both written as in CEL.
pub(crate) fn duration(min: &str, max: &str) -> Schema {
    let range = format!("duration(self) >= duration('{min}') && duration(self) <= duration('{max}')");
    let form = "^([0-9]{1,5}h)?([0-9]{1,6}m)?([0-9]{1,7}s)?$";
    json_schema!({
        "type": "string",
        "minLength": 2,
        "maxLength": limits::DURATION_LENGTH_MAX,
        "x-kubernetes-validations": [
            // What is no duration is the first rule's business; CEL's own words for it would help nobody.
            rule(matches(form), "must be a duration of hours, minutes and seconds, for example 90s, 5m or 1h30m"),
            rule(
                format!("!{} || ({range})", matches(form)),
                format!("must be between {min} and {max}"),
            ),
        ],
    })
}

pub(crate) fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time", "maxLength": limits::TIME_LENGTH_MAX})
}

/// `metav1.Condition`, as a list-map by type, so that others can add conditions of their own.
pub(crate) fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": limits::CONDITIONS_MAX,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "description": "One statement about the resource.",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": {
                    "type": "string", "minLength": 1, "maxLength": 316,
                    "description": "What the statement is about, for example Ready.",
                },
                "status": {
                    "type": "string", "enum": ["True", "False", "Unknown"],
                    "description": "Whether it holds: True, False or Unknown.",
                },
                "observedGeneration": {
                    "type": "integer", "format": "int64", "minimum": 0,
                    "description": "The metadata.generation that the statement was made of.",
                },
                "lastTransitionTime": {
                    "type": "string", "format": "date-time", "maxLength": limits::TIME_LENGTH_MAX,
                    "description": "When status last changed.",
                },
                "reason": {
                    "type": "string", "minLength": 1, "maxLength": 1024,
                    "description": "Why, in one CamelCase word, for example Synced or SecretNotFound.",
                },
                "message": {
                    "type": "string", "maxLength": limits::CONDITION_MESSAGE_LENGTH_MAX,
                    "description": "Why, in a sentence that names the objects, what was found and what to do next.",
                },
            },
        },
    })
}

/// Makes one line of each description, of this schema and of every schema below it.
pub(crate) fn join_description_lines(schema: &mut JSONSchemaProps) {
    if let Some(description) = &mut schema.description {
        *description = description.replace('\n', " ");
    }
    schema.properties.iter_mut().flatten().for_each(|(_, field)| join_description_lines(field));
    if let Some(JSONSchemaPropsOrArray::Schema(item)) = &mut schema.items {
        join_description_lines(item);
    }
}
