//! As whom a KeyVault is opened: what it says, with the Secrets and ServiceAccounts that it names, as the adapter's identities.
//! What they prove themselves with is read by `proofs`, when a token is asked for.

use keyvault_sync_api::constants::{CLIENT_ID_ANNOTATION, TENANT_ID_ANNOTATION};
use keyvault_sync_api::{Identity as Wished, KeyVault, ServiceAccountIdentity, WorkloadIdentity};
use keyvault_sync_core::names::quote;
use keyvault_sync_core::reason::{Problem, Reason};
use keyvault_sync_vault::{Identity, SecretEdition, ServiceAccount};
use kube::ResourceExt;

use crate::context::View;

/// Who opens a vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Opener {
    /// One identity, for whoever uses it.
    One(Identity),
    /// A ServiceAccount of the namespace that uses it.
    PerNamespace(ServiceAccountIdentity),
}

/// What a KeyVault says of it.
///
/// # Errors
/// `AuthenticationFailed`: something of it is not there, or not allowed.
pub(crate) fn opener(key_vault: &KeyVault, context: &View) -> Result<Opener, Problem> {
    let Wished {
        workload_identity,
        service_account,
        service_principal,
        client_certificate,
        managed_identity,
    } = key_vault.spec.identity.clone().unwrap_or_default();
    if let Some(account) = service_account {
        return per_namespace(account, context);
    }
    if let Some(principal) = service_principal {
        let secret = principal.client_secret_ref;
        return Ok(Opener::One(Identity::ServicePrincipal {
            tenant_id: principal.tenant_id,
            client_id: principal.client_id,
            secret: edition(&secret.name, Some(secret.key), "servicePrincipal.clientSecretRef", context)?,
        }));
    }
    if let Some(certificate) = client_certificate {
        return Ok(Opener::One(Identity::ClientCertificate {
            tenant_id: certificate.tenant_id,
            client_id: certificate.client_id,
            secret: edition(&certificate.secret_ref.name, None, "clientCertificate.secretRef", context)?,
        }));
    }
    if let Some(managed) = managed_identity {
        return Ok(Opener::One(Identity::ManagedIdentity { client_id: managed.client_id }));
    }
    workload(workload_identity.unwrap_or_default(), context).map(Opener::One)
}

/// The Secrets in the operator's namespace that a KeyVault names.
pub(crate) fn secrets(key_vault: &KeyVault) -> impl Iterator<Item = &str> {
    let identity = key_vault.spec.identity.as_ref();
    let principal = identity.and_then(|identity| identity.service_principal.as_ref());
    let certificate = identity.and_then(|identity| identity.client_certificate.as_ref());
    let principals = principal.map(|principal| principal.client_secret_ref.name.as_str());
    principals.into_iter().chain(certificate.map(|certificate| certificate.secret_ref.name.as_str()))
}

impl Opener {
    /// As whom it is opened for this namespace.
    ///
    /// # Errors
    /// `AuthenticationFailed`: the namespace has no such ServiceAccount, or it has no ids.
    pub(crate) fn of(&self, namespace: &str, context: &View) -> Result<Identity, Problem> {
        match self {
            Opener::One(identity) => Ok(identity.clone()),
            Opener::PerNamespace(wished) => of_namespace(wished, namespace, context),
        }
    }
}

fn failed(message: String) -> Problem {
    Problem::new(Reason::AuthenticationFailed, message)
}

fn workload(wished: WorkloadIdentity, context: &View) -> Result<Identity, Problem> {
    let settings = &context.settings;
    let missing = |what: &str, variable: &str| {
        failed(format!("no {what}: set identity.workloadIdentity.{what}, or {variable} for the operator"))
    };
    // The webhook has set an empty one where the ServiceAccount says none.
    let told = |id: &Option<String>| id.clone().filter(|id| !id.is_empty());
    let tenant_id = wished.tenant_id.or_else(|| told(&settings.access.azure_tenant_id));
    let client_id = wished.client_id.or_else(|| told(&settings.access.azure_client_id));
    let token_file = settings.access.azure_federated_token_file.clone();
    if let (None, Some(account)) = (&token_file, &context.own_account) {
        // Who asks is no operator: what the operator's pod is told may not be known here, and is missed when the vault is opened.
        let (tenant_id, client_id) = (tenant_id.unwrap_or_default(), client_id.unwrap_or_default());
        return Ok(Identity::ServiceAccount { tenant_id, client_id, account: account.clone() });
    }
    Ok(Identity::WorkloadIdentity {
        tenant_id: tenant_id.ok_or_else(|| missing("tenantId", "AZURE_TENANT_ID"))?,
        client_id: client_id.ok_or_else(|| missing("clientId", "AZURE_CLIENT_ID"))?,
        token_file: token_file.ok_or_else(|| {
            failed(
                "the operator has no federated token: AZURE_FEDERATED_TOKEN_FILE is not set; give its pod the label \
                 azure.workload.identity/use: \"true\""
                    .into(),
            )
        })?,
    })
}

/// The present edition of a Secret in the operator's namespace: a change of it makes another identity, so that nothing which was
/// got or refused with the old one is used any more.
fn edition(name: &str, key: Option<String>, field: &str, context: &View) -> Result<SecretEdition, Problem> {
    let namespace = context.world.own_namespace();
    let meta = context.world.secret(namespace, name);
    let found = meta.as_ref().and_then(|meta| meta.uid().zip(meta.resource_version()));
    let Some((uid, resource_version)) = found else {
        return Err(failed(format!(
            "Secret {namespace}/{name} does not exist: create it in the operator's namespace {namespace}, or correct identity.{field}"
        )));
    };
    Ok(SecretEdition { namespace: namespace.to_owned(), name: name.to_owned(), uid, resource_version, key })
}

fn per_namespace(wished: ServiceAccountIdentity, context: &View) -> Result<Opener, Problem> {
    if context.settings.allows_service_account(&wished.name) {
        return Ok(Opener::PerNamespace(wished));
    }
    Err(failed(format!(
        "identity.serviceAccount: the operator is not set up to ask for tokens of ServiceAccounts named {0}: start it with \
         --service-accounts={0} and the RBAC for it (docs/security.md)",
        wished.name
    )))
}

fn of_namespace(
    wished: &ServiceAccountIdentity,
    namespace: &str,
    context: &View,
) -> Result<Identity, Problem> {
    let name = &wished.name;
    let meta = context.world.service_account(namespace, name);
    let found = meta.as_ref().and_then(|meta| Some((meta.uid()?, meta.annotations())));
    let Some((uid, annotations)) = found else {
        return Err(failed(format!(
            "ServiceAccount {namespace}/{name} does not exist: create it with the annotation {CLIENT_ID_ANNOTATION}, for the \
             namespace to open the vault as itself"
        )));
    };
    let annotation = |key: &str| annotations.get(key).cloned();
    let tenant = wished.tenant_id.clone().or_else(|| annotation(TENANT_ID_ANNOTATION));
    let tenant = tenant.or_else(|| context.settings.access.azure_tenant_id.clone());
    let client = wished.client_id.clone().or_else(|| annotation(CLIENT_ID_ANNOTATION));
    let id = |id: Option<String>, key: &str| match id {
        None => Err(failed(format!("ServiceAccount {namespace}/{name} has no annotation {key}: add it"))),
        Some(id) if is_guid(&id) => Ok(id.to_ascii_lowercase()),
        Some(id) => Err(failed(format!(
            "annotation {key} of ServiceAccount {namespace}/{name} is {}, not a GUID: correct it",
            quote(&id)
        ))),
    };
    Ok(Identity::ServiceAccount {
        tenant_id: id(tenant, TENANT_ID_ANNOTATION)?,
        client_id: id(client, CLIENT_ID_ANNOTATION)?,
        account: ServiceAccount { namespace: namespace.to_owned(), name: name.clone(), uid },
    })
}

/// `8f3c9e2a-5d1b-4c7e-9a60-2b4d6f8e0c11`: who may annotate a ServiceAccount must not choose what a URL is made of.
fn is_guid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    let is_hex = |group: &&str| group.bytes().all(|byte| byte.is_ascii_hexdigit());
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]) && groups.iter().all(is_hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guid_is_a_guid_and_nothing_more() {
        for (text, expected) in [
            ("8f3c9e2a-5d1b-4c7e-9a60-2b4d6f8e0c11", true),
            ("8F3C9E2A-5D1B-4C7E-9A60-2B4D6F8E0C11", true),
            ("8f3c9e2a5d1b4c7e9a602b4d6f8e0c11", false),
            ("8f3c9e2a-5d1b-4c7e-9a60-2b4d6f8e0c1", false),
            ("8f3c9e2a-5d1b-4c7e-9a60-2b4d6f8e0c11/x", false),
            ("../../../../-5d1b-4c7e-9a60-2b4d6f8e0c11", false),
            ("common", false),
            ("", false),
        ] {
            assert_eq!(is_guid(text), expected, "{text}");
        }
    }
}
