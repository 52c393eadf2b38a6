//! What RBAC cannot say about who writes what: ValidatingAdmissionPolicies. `cargo xtask gen` writes them to the chart, of which `deploy/` is made.
//! Who may call at all is left to `rbac`; what a well-formed object is, to the schema of each kind.

use k8s_openapi::api::admissionregistration::v1::{
    MatchCondition, MatchResources, NamedRuleWithOperations, ValidatingAdmissionPolicy,
    ValidatingAdmissionPolicyBinding, ValidatingAdmissionPolicyBindingSpec, ValidatingAdmissionPolicySpec,
    Validation, Variable,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use keyvault_sync_core::names::Cloud;

use crate::constants::GROUP;
use crate::crds;
use crate::rbac::{OPERATE, OPERATE_RESOURCE};

/// The audience of the ServiceAccount tokens that Entra ID exchanges, in Azure public.
pub const TOKEN_AUDIENCE: &str = Cloud::Public.exchange_audience();
/// A token is exchanged at once: it need not live longer than Kubernetes gives one by default.
pub const TOKEN_SECONDS_MAX: i64 = 3600;
/// The name of `operator_only`, the same in every cluster: installations share it.
pub const OPERATOR_ONLY: &str = "operator-only.keyvaultsync.io";

/// A policy with what makes it act.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// What is refused, and in which words.
    pub policy: ValidatingAdmissionPolicy,
    /// Makes it refuse, everywhere.
    pub binding: ValidatingAdmissionPolicyBinding,
}

/// Claims, and the statuses of all our kinds, are written by whoever may `operate` and by nobody else, whatever RBAC allows.
///
/// What changes neither specification nor status passes: labels, the garbage collector's metadata, the migration of
/// stored versions. So does a deletion by hand, which touches no vault.
pub fn operator_only() -> Policy {
    let is_unchanged = "request.operation == 'UPDATE' && object.?spec == oldObject.?spec && \
                        object.?status == oldObject.?status";
    let may_operate =
        format!("authorizer.group('{GROUP}').resource('{OPERATE_RESOURCE}').check('{OPERATE}').allowed()");
    let kinds = crds().into_iter().map(|crd| format!("{}/status", crd.spec.names.plural)).collect();
    policy(
        OPERATOR_ONLY,
        ValidatingAdmissionPolicySpec {
            match_constraints: Some(MatchResources {
                resource_rules: Some(vec![
                    written(GROUP, vec!["keyvaultcertificates".to_owned()], &["CREATE", "UPDATE"]),
                    written(GROUP, kinds, &["CREATE", "UPDATE"]),
                ]),
                ..MatchResources::default()
            }),
            variables: Some(vec![Variable {
                name: "isUnchanged".to_owned(),
                expression: is_unchanged.to_owned(),
            }]),
            // The authorizer is the dear part, and comes last.
            validations: Some(vec![validation(
                format!("variables.isUnchanged || {may_operate}"),
                "KeyVaultCertificates, and the status of every kind of keyvaultsync.io, are written by keyvault-sync \
                 alone: change the KeyVaultSync, ClusterKeyVaultSync or KeyVault instead; a KeyVaultCertificate may \
                 be deleted by hand, which touches no vault",
            )]),
            ..ValidatingAdmissionPolicySpec::default()
        },
    )
}

/// This ServiceAccount, an operator's, requests tokens for the exchange at Entra ID and for nothing else: none with which it
/// could speak to the API server, or to any other service, as somebody else.
///
/// It goes by the name, not by the verb `operate`: administrators have every verb, and request what they like.
pub fn token_requests(namespace: &str, service_account: &str) -> Policy {
    let audiences = Cloud::ALL.map(|cloud| format!("'{}'", cloud.exchange_audience())).join(", ");
    policy(
        &format!("tokens.{namespace}.{service_account}.{GROUP}"),
        ValidatingAdmissionPolicySpec {
            match_constraints: Some(MatchResources {
                resource_rules: Some(vec![written(
                    "",
                    vec!["serviceaccounts/token".to_owned()],
                    &["CREATE"],
                )]),
                ..MatchResources::default()
            }),
            match_conditions: Some(vec![MatchCondition {
                name: "is-the-operator".to_owned(),
                expression: format!(
                    "request.userInfo.username == 'system:serviceaccount:{namespace}:{service_account}'"
                ),
            }]),
            validations: Some(vec![
                validation(
                    format!("size(object.spec.audiences) == 1 && object.spec.audiences[0] in [{audiences}]"),
                    &format!(
                        "keyvault-sync requests tokens of one audience only: {TOKEN_AUDIENCE}, or its like in another cloud"
                    ),
                ),
                // Kubernetes writes `null` there where nothing was given: it is always there.
                validation(
                    "object.spec.?boundObjectRef.orValue(null) == null".to_owned(),
                    "keyvault-sync requests no tokens that are bound to an object: leave boundObjectRef out",
                ),
                validation(
                    format!("object.spec.expirationSeconds <= {TOKEN_SECONDS_MAX}"),
                    &format!("keyvault-sync requests no token for longer than {TOKEN_SECONDS_MAX} s"),
                ),
            ]),
            ..ValidatingAdmissionPolicySpec::default()
        },
    )
}

fn policy(name: &str, spec: ValidatingAdmissionPolicySpec) -> Policy {
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    Policy {
        binding: ValidatingAdmissionPolicyBinding {
            metadata: metadata.clone(),
            spec: ValidatingAdmissionPolicyBindingSpec {
                policy_name: name.to_owned(),
                validation_actions: vec!["Deny".to_owned()],
                ..ValidatingAdmissionPolicyBindingSpec::default()
            },
        },
        policy: ValidatingAdmissionPolicy {
            metadata,
            // A rule that cannot be judged is not kept.
            spec: Some(ValidatingAdmissionPolicySpec { failure_policy: Some("Fail".to_owned()), ..spec }),
            ..ValidatingAdmissionPolicy::default()
        },
    }
}

/// All versions, because installations of different age share a policy.
fn written(group: &str, resources: Vec<String>, operations: &[&str]) -> NamedRuleWithOperations {
    NamedRuleWithOperations {
        api_groups: Some(vec![group.to_owned()]),
        api_versions: Some(vec!["*".to_owned()]),
        resources: Some(resources),
        operations: Some(operations.iter().map(|operation| (*operation).to_owned()).collect()),
        ..NamedRuleWithOperations::default()
    }
}

/// `Forbidden`, as RBAC would answer: by default a refusal looks like a malformed object.
fn validation(expression: String, message: &str) -> Validation {
    Validation {
        expression,
        message: Some(message.to_owned()),
        reason: Some("Forbidden".to_owned()),
        ..Validation::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binding_names_its_policy_denies_and_nothing_passes_by_an_error() {
        for Policy { policy, binding } in [operator_only(), token_requests("ns", "sa")] {
            let (spec, bound) = (policy.spec.unwrap_or_default(), binding.spec);
            assert_eq!(spec.failure_policy.as_deref(), Some("Fail"));
            assert_eq!(Some(bound.policy_name), policy.metadata.name);
            assert_eq!(bound.validation_actions, ["Deny"]);
            assert!(bound.match_resources.is_none() && bound.param_ref.is_none());
        }
    }

    #[test]
    fn the_status_of_every_kind_and_claims_themselves_are_guarded() {
        let spec = operator_only().policy.spec.unwrap_or_default();
        let rules = spec.match_constraints.and_then(|found| found.resource_rules).unwrap_or_default();
        let guarded: Vec<String> =
            rules.into_iter().flat_map(|rule| rule.resources.unwrap_or_default()).collect();
        for crd in crds() {
            let status = format!("{}/status", crd.spec.names.plural);
            assert!(guarded.contains(&status), "{status} not in {guarded:?}");
        }
        assert!(guarded.contains(&"keyvaultcertificates".to_owned()));
        // Users write their wishes themselves.
        assert!(!guarded.contains(&"keyvaultsyncs".to_owned()));
    }

    #[test]
    fn each_installation_has_token_rules_of_its_own_and_shares_the_others() {
        let names = [("a", "b"), ("a", "c"), ("b", "b")]
            .map(|(namespace, account)| token_requests(namespace, account).policy.metadata.name);
        assert!(names[0] != names[1] && names[1] != names[2] && names[0] != names[2], "{names:?}");
        assert_eq!(operator_only(), operator_only());
    }
}
