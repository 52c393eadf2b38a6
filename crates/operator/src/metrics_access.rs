//! Who may fetch metrics: whoever shows a token that the API server takes (TokenReview), and whom RBAC lets get `/metrics`
//! (SubjectAccessReview). What was answered is believed for a short time, so that many calls are not as many for the API server. How
//! metrics are served is left to `metrics_server`.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::kubernetes::{CallError, call_within};

/// What is asked for, as RBAC has it.
const PATH: &str = "/metrics";
const VERB: &str = "get";
/// How long an answer is believed: a right that was taken away, or given, counts after this.
const BELIEVED: Duration = Duration::from_secs(30);
/// Tokens remembered. There are a few scrapers; who shows ever new ones is asked about each time.
const REMEMBERED_MAX: usize = 64;
/// Longer ones are no tokens of a cluster.
const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// A scrape waits ten seconds as a rule.
const LIMIT: Duration = Duration::from_secs(5);

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is answered.
    Allowed,
    /// The user is known, and may not.
    Forbidden {
        /// As RBAC calls him.
        user: String,
    },
    /// The token is none of the cluster's, or not valid any more.
    Unknown,
}

/// Asks the API server, and remembers.
pub(crate) struct Access {
    client: Client,
    remembered: Mutex<HashMap<[u8; 32], (Verdict, Instant)>>,
}

impl Access {
    /// With the operator's own rights to ask.
    pub(crate) fn new(client: Client) -> Self {
        Self { client, remembered: Mutex::default() }
    }

    /// What becomes of a request with this token.
    ///
    /// # Errors
    /// The API server does not answer, or the operator may not ask.
    pub(crate) async fn judge(&self, token: &str) -> Result<Verdict, CallError> {
        if token.is_empty() || token.len() > TOKEN_BYTES_MAX {
            return Ok(Verdict::Unknown);
        }
        // The token itself is kept nowhere.
        let key: [u8; 32] = Sha256::digest(token).into();
        if let Some(verdict) = self.remembered(&key) {
            return Ok(verdict);
        }
        let verdict = self.ask(token).await?;
        self.remember(key, verdict.clone());
        Ok(verdict)
    }

    async fn ask(&self, token: &str) -> Result<Verdict, CallError> {
        let review = TokenReview {
            spec: TokenReviewSpec { token: token.to_owned(), audiences: None },
            ..TokenReview::default()
        };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let answer =
            call_within(LIMIT, "whose token this is", reviews.create(&PostParams::default(), &review))
                .await?;
        let status = answer.status.unwrap_or_default();
        let Some(user) = status.user.filter(|_| status.authenticated == Some(true)) else {
            return Ok(Verdict::Unknown);
        };
        let name = user.username.clone().unwrap_or_default();
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let (params, review) = (PostParams::default(), of(user));
        let asking = reviews.create(&params, &review);
        let answer = call_within(LIMIT, "whether metrics may be fetched", asking).await?;
        let is_allowed = answer.status.is_some_and(|status| status.allowed);
        Ok(if is_allowed { Verdict::Allowed } else { Verdict::Forbidden { user: name } })
    }

    fn remembered(&self, key: &[u8; 32]) -> Option<Verdict> {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let (verdict, since) = remembered.get(key)?;
        (since.elapsed() < BELIEVED).then(|| verdict.clone())
    }

    fn remember(&self, key: [u8; 32], verdict: Verdict) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.retain(|_, (_, since)| since.elapsed() < BELIEVED);
        if remembered.len() < REMEMBERED_MAX {
            remembered.insert(key, (verdict, Instant::now()));
        }
    }
}

/// Whether this user may.
fn of(user: UserInfo) -> SubjectAccessReview {
    SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: user.username,
            uid: user.uid,
            groups: user.groups,
            extra: user.extra,
            non_resource_attributes: Some(NonResourceAttributes {
                path: Some(PATH.to_owned()),
                verb: Some(VERB.to_owned()),
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client of an API server that is not there.
    fn unreachable() -> Client {
        Client::new(
            tower::service_fn(|_: axum::http::Request<kube::client::Body>| async {
                Err::<axum::http::Response<kube::client::Body>, _>(std::io::Error::other("nobody is there"))
            }),
            "default",
        )
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_answered_is_believed_for_a_short_time() {
        let access = Access::new(unreachable());
        let key: [u8; 32] = Sha256::digest("token").into();
        access.remember(key, Verdict::Allowed);
        assert_eq!(access.judge("token").await.unwrap(), Verdict::Allowed);
        tokio::time::advance(BELIEVED).await;
        assert_eq!(access.remembered(&key), None);
    }

    #[tokio::test]
    async fn ever_new_tokens_fill_no_memory() {
        let access = Access::new(unreachable());
        for number in 0..10 * REMEMBERED_MAX {
            access.remember(Sha256::digest(number.to_string()).into(), Verdict::Unknown);
        }
        assert_eq!(access.remembered.lock().unwrap().len(), REMEMBERED_MAX);
    }

    #[tokio::test]
    async fn what_cannot_be_a_token_is_not_asked_about() {
        let access = Access::new(unreachable());
        for token in [String::new(), "x".repeat(TOKEN_BYTES_MAX + 1)] {
            assert_eq!(access.judge(&token).await.unwrap(), Verdict::Unknown);
        }
        assert!(access.judge("token").await.is_err());
    }
}
