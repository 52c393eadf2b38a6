//! Promises of the whole schema: nothing undescribed, nothing unbounded, words that match the constants.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use serde_json::{Value, json};

use super::*;

/// Every schema below `spec` and `status` of every kind, with its path.
fn schemas() -> Vec<(String, JSONSchemaProps)> {
    let mut found = Vec::new();
    for crd in crds() {
        let root = root_schema(&crd);
        for name in ["spec", "status"] {
            collect(
                &format!("{}.{name}", crd.spec.names.kind),
                &root.properties.as_ref().unwrap()[name],
                &mut found,
            );
        }
    }
    found
}

fn root_schema(crd: &CustomResourceDefinition) -> JSONSchemaProps {
    crd.spec.versions[0].schema.clone().unwrap().open_api_v3_schema.unwrap()
}

fn collect(path: &str, schema: &JSONSchemaProps, found: &mut Vec<(String, JSONSchemaProps)>) {
    found.push((path.to_owned(), schema.clone()));
    for (name, field) in schema.properties.iter().flatten() {
        collect(&format!("{path}.{name}"), field, found);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(item)) = &schema.items {
        collect(&format!("{path}[]"), item, found);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(value)) = &schema.additional_properties {
        collect(&format!("{path}{{}}"), value, found);
    }
}

fn at(path: &str) -> JSONSchemaProps {
    schemas().into_iter().find(|(found, _)| found == path).unwrap_or_else(|| panic!("no field {path}")).1
}

fn offenders(is_wrong: impl Fn(&str, &JSONSchemaProps) -> bool) -> Vec<String> {
    let schemas = schemas();
    assert!(schemas.len() > 100, "the walk found only {} schemas", schemas.len());
    schemas.into_iter().filter(|(path, schema)| is_wrong(path, schema)).map(|(path, _)| path).collect()
}

#[test]
fn every_field_is_described_in_whole_sentences_on_one_line() {
    let is_wrong = |path: &str, schema: &JSONSchemaProps| {
        let text = schema.description.as_deref().unwrap_or_default();
        let is_plain_item =
            (path.ends_with("[]") || path.ends_with("{}")) && schema.type_.as_deref() == Some("string");
        !is_plain_item
            && (text.is_empty() || !text.ends_with('.') || text.contains('\n') || text.contains('['))
    };
    assert_eq!(offenders(is_wrong), Vec::<String>::new());
}

#[test]
fn every_text_list_and_map_has_a_maximum() {
    let is_wrong = |_: &str, schema: &JSONSchemaProps| match schema.type_.as_deref() {
        Some("string") => schema.max_length.is_none() && schema.enum_.is_none(),
        Some("array") => schema.max_items.is_none(),
        Some("object") => schema.additional_properties.is_some() && schema.max_properties.is_none(),
        Some("boolean" | "integer") => false,
        _ => true,
    };
    assert_eq!(offenders(is_wrong), Vec::<String>::new());
}

/// A null that is kept is a third state beside absent and present, which no rule expects; one that is not is pruned.
#[test]
fn no_field_is_nullable() {
    // `status` itself is an `Option` of kube's own making, and no rule looks at it.
    let is_wrong =
        |path: &str, schema: &JSONSchemaProps| schema.nullable == Some(true) && !path.ends_with(".status");
    assert_eq!(offenders(is_wrong), Vec::<String>::new());
}

#[test]
fn every_list_of_objects_says_how_it_is_merged() {
    let is_wrong = |_: &str, schema: &JSONSchemaProps| {
        let holds_objects = matches!(&schema.items, Some(JSONSchemaPropsOrArray::Schema(item)) if item.type_.as_deref() == Some("object"));
        holds_objects && schema.x_kubernetes_list_type.is_none()
    };
    assert_eq!(offenders(is_wrong), Vec::<String>::new());
    for (path, keys) in [
        ("KeyVaultSync.spec.certificates", ["secretName"]),
        ("KeyVaultSync.spec.selector.annotations", ["name"]),
        ("KeyVaultSync.status.conditions", ["type"]),
        ("KeyVault.status.conditions", ["type"]),
        ("KeyVaultCertificate.status.conditions", ["type"]),
    ] {
        assert_eq!(at(path).x_kubernetes_list_map_keys.unwrap(), keys, "{path}");
    }
    assert_eq!(at("KeyVaultSync.status.certificates").x_kubernetes_list_type.unwrap(), "atomic");
}

#[test]
fn defaults_are_in_the_schema() {
    for (path, default) in [
        ("KeyVaultSync.spec.certificateNameTemplate", json!("{secret}")),
        ("ClusterKeyVaultSync.spec.certificateNameTemplate", json!("{namespace}--{secret}")),
        ("ClusterKeyVaultSync.spec.deletionPolicy", json!("Retain")),
        ("KeyVaultSync.spec.exportable", json!(true)),
        ("KeyVaultSync.spec.conflictPolicy", json!("Refuse")),
        ("KeyVaultSync.spec.deletionPolicy", json!("Retain")),
        ("KeyVaultSync.spec.deletionGracePeriod", json!("1h")),
        ("KeyVaultSync.spec.suspend", json!(false)),
        ("KeyVaultSync.spec.certificates[].keys", json!({"certificate": "tls.crt", "privateKey": "tls.key"})),
        ("KeyVaultSync.spec.certificates[].keys.certificate", json!("tls.crt")),
        ("KeyVaultSync.spec.certificates[].keys.privateKey", json!("tls.key")),
        ("KeyVault.spec.resyncInterval", json!("1h")),
        ("KeyVault.spec.identity.servicePrincipal.clientSecretRef.key", json!("clientSecret")),
    ] {
        assert_eq!(at(path).default.map(|default| default.0), Some(default), "{path}");
    }
}

#[test]
fn every_rule_has_a_sentence() {
    for crd in crds() {
        let text = serde_json::to_value(&crd).unwrap();
        walk_rules(&text, &mut |rule| {
            let message = rule["message"].as_str().unwrap_or_default();
            assert!(message.contains(' ') && !message.contains('\n'), "{rule}");
        });
    }
}

fn walk_rules(value: &Value, seen: &mut impl FnMut(&Value)) {
    if let Some(rules) = value.get("x-kubernetes-validations").and_then(Value::as_array) {
        rules.iter().for_each(&mut *seen);
    }
    match value {
        Value::Object(map) => map.values().for_each(|value| walk_rules(value, seen)),
        Value::Array(list) => list.iter().for_each(|value| walk_rules(value, seen)),
        _ => {}
    }
}

#[test]
fn kinds_are_named_as_the_constants_say() {
    for (crd, kind, plural, short, scope) in [
        (&crds()[0], "KeyVaultSync", "keyvaultsyncs", "kvsync", "Namespaced"),
        (&crds()[1], "ClusterKeyVaultSync", "clusterkeyvaultsyncs", "ckvsync", "Cluster"),
        (&crds()[2], "KeyVault", "keyvaults", "kvault", "Cluster"),
        (&crds()[3], "KeyVaultCertificate", "keyvaultcertificates", "kvcert", "Cluster"),
    ] {
        let (spec, version) = (&crd.spec, &crd.spec.versions[0]);
        assert_eq!((spec.group.as_str(), version.name.as_str()), (constants::GROUP, constants::VERSION));
        assert_eq!(spec.names.kind, kind);
        assert_eq!(spec.names.plural, plural);
        assert_eq!(spec.names.short_names.as_ref().unwrap(), &[short]);
        assert_eq!(spec.names.categories.as_ref().unwrap(), &[constants::CATEGORY]);
        assert_eq!(spec.scope, scope);
        let subresources = version.subresources.as_ref().unwrap();
        assert!(subresources.status.is_some() && subresources.scale.is_none());
        assert!(version.served && version.storage);
    }
    for word in [constants::SYNC_AT_ANNOTATION, constants::INSTALLATION_LABEL, constants::EVENT_REPORTER] {
        assert!(word.starts_with(&format!("{}/", constants::GROUP)), "{word}");
    }
}

/// The order is the order of the columns; what comes after Age is wide.
#[test]
fn columns_are_those_of_the_documentation() {
    let columns: Vec<_> = crds()
        .iter()
        .map(|crd| {
            let columns = crd.spec.versions[0].additional_printer_columns.as_ref().unwrap();
            columns
                .iter()
                .map(|column| (column.name.clone(), column.type_.clone(), column.priority))
                .collect::<Vec<_>>()
        })
        .collect();
    const SYNC: &[(&str, &str, Option<i32>)] = &[
        ("Ready", "string", None),
        ("Reason", "string", None),
        ("Vault", "string", None),
        ("Synced", "string", None),
        ("Next Expiry", "string", None),
        ("Age", "date", None),
        ("Last Push", "date", Some(1)),
        ("Message", "string", Some(1)),
    ];
    let expected: [&[(&str, &str, Option<i32>)]; 4] = [
        SYNC,
        SYNC,
        &[
            ("Ready", "string", None),
            ("Reason", "string", None),
            ("URL", "string", None),
            ("Age", "date", None),
        ],
        &[
            ("Ready", "string", None),
            ("Reason", "string", None),
            ("Namespace", "string", None),
            ("Secret", "string", None),
            ("Expires", "string", None),
            ("Age", "date", None),
        ],
    ];
    for (columns, expected) in columns.iter().zip(expected) {
        let columns: Vec<_> = columns
            .iter()
            .map(|(name, type_, priority)| (name.as_str(), type_.as_str(), *priority))
            .collect();
        assert_eq!(columns, expected);
    }
}

#[test]
fn a_minimal_resource_reads_as_its_defaults_and_writes_no_empty_field() {
    let spec: KeyVaultSyncSpec = serde_json::from_value(
        json!({"vaultRef": {"name": "contoso"}, "certificates": [{"secretName": "web-tls"}]}),
    )
    .unwrap();
    assert_eq!(
        serde_json::to_value(&spec).unwrap(),
        json!({
            "vaultRef": {"name": "contoso"},
            "certificates": [{"secretName": "web-tls", "keys": {"certificate": "tls.crt", "privateKey": "tls.key"}}],
            "certificateNameTemplate": "{secret}",
            "exportable": true,
            "conflictPolicy": "Refuse",
            "deletionPolicy": "Retain",
            "deletionGracePeriod": "1h",
            "suspend": false,
        })
    );
    assert_eq!(serde_json::to_value(KeyVaultCertificateStatus::default()).unwrap(), json!({}));
    assert_eq!(serde_json::to_value(KeyVaultSyncStatus::default()).unwrap(), json!({}));
    assert_eq!(serde_json::to_value(KeyVaultStatus::default()).unwrap(), json!({}));
}
