//! Policies of certificates: made by an import, read, and changed member by member.
//! Leaves versions, tags and attributes to certificates.rs.

use serde_json::{Map, Value, json};

use crate::bundle::{Bundle, KeyKind};
use crate::certificates::{Address, changeable, check_name, there};
use crate::error::VaultError;
use crate::shown::policy_json;
use crate::vault::{Vault, now};

/// The policy in force after an import: what was sent, checked against the key, and what the service fills in.
pub(crate) fn of_import(sent: &Value, bundle: &Bundle, content_type: &str) -> Result<Value, VaultError> {
    if !sent.is_null() {
        check(sent)?;
    }
    let key = &sent["key_props"];
    if key["kty"].is_null() && bundle.mixed {
        let message =
            "The chain mixes RSA and EC keys: the policy must say which type the certificate's key has";
        return Err(VaultError::bad_parameter(message));
    }
    let mut wanted = key_props(bundle.kind);
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

fn key_props(kind: KeyKind) -> Value {
    match kind {
        KeyKind::Rsa { bits } => json!({ "kty": "RSA", "key_size": bits }),
        KeyKind::Ec { curve, bits } => json!({ "kty": "EC", "key_size": bits, "crv": curve }),
    }
}

/// The policy to send for an import by hand: `sent`, with what is known of the key.
pub(crate) fn by_hand(sent: Value, exportable: bool, kind: KeyKind) -> Result<Value, VaultError> {
    let mut policy = json!({ "key_props": key_props(kind) });
    if !sent.is_null() {
        check(&sent)?;
        merge(&mut policy, sent);
    }
    policy["key_props"]["exportable"] = json!(exportable);
    Ok(policy)
}

/// The policy in force while the first operation is pending, as a request for a certificate of an unknown CA leaves it.
pub(crate) fn of_operation() -> Value {
    json!({
        "key_props": { "exportable": true, "kty": "RSA", "key_size": 2048, "reuse_key": false },
        "secret_props": { "contentType": "application/x-pkcs12" },
        "x509_props": { "subject": "CN=pending" },
        "lifetime_actions": [],
        "issuer": { "name": "Unknown" },
        "attributes": { "enabled": true, "created": now(), "updated": now() },
    })
}

/// `GET /certificates/{name}/policy`: the policy in force.
pub(crate) fn get(vault: &Vault, name: &str, at: &Address<'_>) -> Result<Value, VaultError> {
    check_name(name)?;
    Ok(policy_json(there(vault, name, name)?, at))
}

/// `PATCH /certificates/{name}/policy`: changes the policy in force; the versions' own stay as they were.
pub(crate) fn update(
    vault: &mut Vault,
    name: &str,
    sent: Value,
    at: &Address<'_>,
) -> Result<Value, VaultError> {
    check_name(name)?;
    check(&sent)?;
    let certificate = changeable(vault, name, name)?;
    change(&mut certificate.policy, sent);
    Ok(policy_json(certificate, at))
}

/// Refuses a policy whose members are not of their kind.
pub(crate) fn check(sent: &Value) -> Result<(), VaultError> {
    let wrong = |what: &str| Err(VaultError::bad_parameter(format!("The policy is wrong: {what}")));
    if !sent.is_object() {
        return wrong("it is no JSON object");
    }
    for member in ["key_props", "secret_props", "x509_props", "issuer", "attributes"] {
        if !(sent[member].is_null() || sent[member].is_object()) {
            return wrong(&format!("{member} is no JSON object"));
        }
    }
    if !(sent["lifetime_actions"].is_null() || sent["lifetime_actions"].is_array()) {
        return wrong("lifetime_actions is no JSON array");
    }
    Ok(())
}

/// Sets the members that are given and leaves the others. Identifier and dates are the service's own.
pub(crate) fn change(policy: &mut Value, mut sent: Value) {
    if let Some(members) = sent.as_object_mut() {
        members.remove("id");
        members.remove("attributes");
    }
    merge(policy, sent);
    policy["attributes"]["updated"] = json!(now());
}

/// Members given replace those there are; objects are merged, lists replaced.
fn merge(old: &mut Value, new: Value) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for (name, value) in new.into_iter().filter(|(_, value)| !value.is_null()) {
                merge(old.entry(name).or_insert(Value::Null), value);
            }
        }
        (old, new) => *old = new,
    }
}
