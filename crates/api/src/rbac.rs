//! What the operator may do in the cluster: the least that its calls need. `cargo xtask gen` writes it to `deploy/`.
//! Who is bound to it is left to the manifests that install the operator.

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::constants::GROUP;

/// The name of the role.
pub const CLUSTER_ROLE: &str = "keyvault-sync";

/// What the operator's watches need.
const READ: [&str; 3] = ["get", "list", "watch"];

/// The role of an operator that serves the whole cluster. Secrets are read, never written.
pub fn cluster_role() -> ClusterRole {
    ClusterRole {
        metadata: ObjectMeta { name: Some(CLUSTER_ROLE.into()), ..ObjectMeta::default() },
        rules: Some(vec![
            rule(GROUP, &["keyvaultsyncs", "clusterkeyvaultsyncs", "keyvaults"], &READ),
            rule(
                GROUP,
                &["keyvaultsyncs/status", "clusterkeyvaultsyncs/status", "keyvaults/status"],
                &["patch"],
            ),
            rule(GROUP, &["keyvaultcertificates"], &["get", "list", "watch", "create", "update", "delete"]),
            rule(GROUP, &["keyvaultcertificates/status"], &["update"]),
            rule("", &["secrets", "namespaces"], &READ),
            rule("events.k8s.io", &["events"], &["create"]),
            // Whether the kind of a vanished owner still exists, before its claims are given up.
            PolicyRule {
                resource_names: Some(vec![
                    format!("keyvaultsyncs.{GROUP}"),
                    format!("clusterkeyvaultsyncs.{GROUP}"),
                ]),
                ..rule("apiextensions.k8s.io", &["customresourcedefinitions"], &["get"])
            },
        ]),
        ..ClusterRole::default()
    }
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> PolicyRule {
    let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(own(resources)),
        verbs: own(verbs),
        ..PolicyRule::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operator_writes_no_secret_and_has_no_wildcard() {
        for rule in cluster_role().rules.unwrap_or_default() {
            let resources = rule.resources.unwrap_or_default();
            assert!(!resources.iter().chain(&rule.verbs).any(|word| word == "*"));
            if resources.iter().any(|resource| resource == "secrets") {
                assert_eq!(rule.verbs, READ);
            }
        }
    }
}
