//! Policies of certificates: made by an import, read, and changed member by member.
//! Leaves versions, tags and attributes to certificates.rs.

use serde_json::{Map, Value, json};

use crate::bundle::{Bundle, KeyKind};
use crate::error::VaultError;
use crate::vault::now;

/// The policy in force after an import: what was sent, checked against the key, and what the service fills in.
pub(crate) fn policy(sent: &Value, bundle: &Bundle, content_type: &str) -> Result<Value, VaultError> {
    let key = &sent["key_props"];
    if key["kty"].is_null() && bundle.mixed {
        let message =
            "The chain mixes RSA and EC keys: the policy must say which type the certificate's key has";
        return Err(VaultError::bad_parameter(message));
    }
    let mut wanted = match bundle.kind {
        KeyKind::Rsa { bits } => json!({ "kty": "RSA", "key_size": bits }),
        KeyKind::Ec { curve, bits } => json!({ "kty": "EC", "key_size": bits, "crv": curve }),
    };
    for property in ["kty", "key_size", "crv"] {
        let (sent, real) = (&key[property], &wanted[property]);
        if !sent.is_null() && sent != real {
            let message = format!(
                "The policy says key_props.{property} {sent}, which does not match the key in the certificate ({real})"
            );
            return Err(VaultError::bad_parameter(message));
        }
    }
    wanted["exportable"] = json!(key["exportable"].as_bool().unwrap_or(true));
    wanted["reuse_key"] = json!(key["reuse_key"].as_bool().unwrap_or(false));
    let mut policy = match sent {
        Value::Object(members) => Value::Object(members.clone()),
        _ => Value::Object(Map::new()),
    };
    policy["key_props"] = wanted;
    policy["secret_props"] = json!({ "contentType": content_type });
    if policy["issuer"]["name"].is_null() {
        policy["issuer"] = json!({ "name": "Unknown" });
    }
    if policy["lifetime_actions"].is_null() {
        policy["lifetime_actions"] = json!([]);
    }
    if policy["x509_props"].is_null() {
        policy["x509_props"] = json!({ "subject": bundle.subject });
    }
    policy["attributes"] = json!({ "enabled": true, "created": now(), "updated": now() });
    Ok(policy)
}

/// Members given replace those there are; objects are merged.
pub(crate) fn merge(old: &mut Value, new: Value) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for (name, value) in new {
                merge(old.entry(name).or_insert(Value::Null), value);
            }
        }
        (_, Value::Null) => {}
        (old, new) => *old = new,
    }
}
