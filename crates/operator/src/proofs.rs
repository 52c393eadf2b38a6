//! What identities prove themselves with, read from the cluster at the moment a token is asked for and kept nowhere: client secrets and
//! certificates from the operator's namespace, tokens of ServiceAccounts by TokenRequest. Who an identity is, `identity` says.

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount as Account};
use keyvault_sync_core::reason::{Problem, Reason};
use keyvault_sync_core::secret_bytes::SecretBytes;
use keyvault_sync_vault::{Proofs, SecretEdition, ServiceAccount};
use kube::Client;
use kube::api::{Api, PostParams};

use crate::kubernetes::call;

/// The shortest life that Kubernetes gives a token: it is exchanged at once.
const TOKEN_SECONDS: i64 = 600;
/// Keys of a Secret of type kubernetes.io/tls.
const CERTIFICATE: &str = "tls.crt";
const PRIVATE_KEY: &str = "tls.key";

/// The cluster as the place where proofs are.
pub(crate) struct ClusterProofs {
    client: Client,
    /// It is no operator that asks.
    is_of_a_person: bool,
}

impl ClusterProofs {
    /// Reads with this client.
    pub(crate) fn new(client: Client) -> Self {
        Self { client, is_of_a_person: false }
    }

    /// The same for a tool that somebody runs.
    pub(crate) fn of_a_person(client: Client) -> Self {
        Self { client, is_of_a_person: true }
    }

    async fn secret(&self, edition: &SecretEdition) -> Result<Secret, Problem> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &edition.namespace);
        call("the Secret of an identity", api.get(&edition.name)).await.map_err(|error| {
            if error.says_missing(&edition.name) {
                return failed(format!("Secret {} does not exist any more: create it", place(edition)));
            }
            error.problem()
        })
    }
}

impl std::fmt::Debug for ClusterProofs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterProofs")
    }
}

#[async_trait]
impl Proofs for ClusterProofs {
    async fn client_secret(&self, secret: &SecretEdition) -> Result<SecretBytes, Problem> {
        let key = secret.key.as_deref().unwrap_or_default();
        let found = self.secret(secret).await?;
        entry(found, secret, [key]).map(|[value]| trimmed(value))
    }

    async fn client_certificate(&self, secret: &SecretEdition) -> Result<(Vec<u8>, SecretBytes), Problem> {
        let found = self.secret(secret).await?;
        let [certificate, key] = entry(found, secret, [CERTIFICATE, PRIVATE_KEY])?;
        Ok((certificate.expose().to_vec(), key))
    }

    async fn service_account_token(
        &self,
        account: &ServiceAccount,
        audience: &str,
    ) -> Result<SecretBytes, Problem> {
        let ServiceAccount { namespace, name, uid } = account;
        let api: Api<Account> = Api::namespaced(self.client.clone(), namespace);
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(vec![audience.to_owned()]),
                expiration_seconds: Some(TOKEN_SECONDS),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let params = PostParams::default();
        let asked = api.create_token_request(name, &params, &request);
        let answer = call("a token of a ServiceAccount", asked).await.map_err(|error| {
            match error.status().map(|status| status.code) {
                Some(404) => failed(format!("ServiceAccount {namespace}/{name} does not exist any more: create it")),
                Some(403) if self.is_of_a_person => failed(format!(
                    "you may not ask for a token of ServiceAccount {namespace}/{name}: that takes create on serviceaccounts/token"
                )),
                Some(403) => failed(format!(
                    "the operator may not ask for a token of ServiceAccount {namespace}/{name}: its namespace is going, or the \
                     operator's RBAC lacks create on serviceaccounts/token for {name} (docs/security.md)"
                )),
                _ => error.problem(),
            }
        })?;
        let token =
            SecretBytes::new(answer.status.and_then(|status| status.token).unwrap_or_default().into_bytes());
        if uid_in(&token).as_ref() == Some(uid) {
            return Ok(token);
        }
        // Made anew meanwhile: the watch will show it, and whoever it belongs to now.
        Err(Problem::new(
            Reason::Unavailable,
            format!("ServiceAccount {namespace}/{name} was made anew; it is looked at again"),
        ))
    }
}

/// The uid of the ServiceAccount that a token is of.
/// Source: <https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/#schema-for-service-account-private-claims>.
fn uid_in(token: &SecretBytes) -> Option<String> {
    let payload = token.expose().split(|byte| *byte == b'.').nth(1)?;
    let claims: serde_json::Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    claims["kubernetes.io"]["serviceaccount"]["uid"].as_str().map(str::to_owned)
}

fn failed(message: String) -> Problem {
    Problem::new(Reason::AuthenticationFailed, message)
}

fn place(edition: &SecretEdition) -> String {
    format!("{}/{}", edition.namespace, edition.name)
}

/// These entries of a Secret; the others are wiped with it.
fn entry<const N: usize>(
    secret: Secret,
    edition: &SecretEdition,
    keys: [&str; N],
) -> Result<[SecretBytes; N], Problem> {
    let mut data = secret.data.unwrap_or_default();
    let mut missing = None;
    let entries = keys.map(|key| match data.remove(key).filter(|value| !value.0.is_empty()) {
        Some(value) => SecretBytes::new(value.0),
        None => {
            missing.get_or_insert(key);
            SecretBytes::new(Vec::new())
        }
    });
    for rest in data.into_values() {
        drop(SecretBytes::new(rest.0));
    }
    match missing {
        None => Ok(entries),
        Some(key) => {
            Err(failed(format!("Secret {} has nothing under the key {key}: add it", place(edition))))
        }
    }
}

/// Without the line break that editors and `echo` leave at the end.
fn trimmed(value: SecretBytes) -> SecretBytes {
    SecretBytes::new(value.expose().trim_ascii_end().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_whose_it_is() {
        let token = |payload: &str| {
            SecretBytes::new(format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(payload)).into_bytes())
        };
        for (token, uid) in [
            (token(r#"{"kubernetes.io":{"serviceaccount":{"name":"keyvault","uid":"u1"}}}"#), Some("u1")),
            (token(r#"{"kubernetes.io":{}}"#), None),
            (token("no JSON"), None),
            (SecretBytes::new(b"no token".to_vec()), None),
            (SecretBytes::new(Vec::new()), None),
        ] {
            assert_eq!(uid_in(&token).as_deref(), uid);
        }
    }
}
