//! Calls to the API server, each with a time limit, and what their failures mean.
//! Which calls are made is left to the controllers.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use keyvault_sync_core::reason::{Problem, Reason};
use kube::api::{Api, ListParams};
use kube::client::Client;
use kube::core::Status;
use kube::{Config, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;

use crate::watch::describe;

/// kube sets no time limit of its own on a request.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Objects of one page of a list.
const PAGE_SIZE: u32 = 500;

/// Calls under way at a time: kube bounds neither them nor its idle connections, and a resource over thousands of Secrets that goes
/// would make thousands at once.
static UNDER_WAY: Semaphore = Semaphore::const_new(64);

/// A call that did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// No answer in time.
    #[error("the API server did not answer within {} s ({what})", limit.as_secs())]
    Timeout {
        /// What was asked.
        what: &'static str,
        /// How long was waited.
        limit: Duration,
    },
    /// Another answer than hoped for.
    #[error("the API server could not be asked, or refused ({what})")]
    Kube {
        /// What was asked.
        what: &'static str,
        /// The answer.
        source: Box<kube::Error>,
    },
    /// The definition of the kind does not know all that was written.
    #[error("the API server did not keep what was written ({what})")]
    Dropped {
        /// What was written.
        what: &'static str,
    },
}

impl CallError {
    /// Somebody else changed the object in between, or it is there already.
    pub(crate) fn is_conflict(&self) -> bool {
        self.status().is_some_and(|status| status.code == 409)
    }

    /// The object was changed, made or removed by somebody else meanwhile: looked at again, nothing to tell.
    pub(crate) fn is_race(&self) -> bool {
        self.status().is_some_and(|status| matches!(status.code, 404 | 409))
    }

    /// The API server says of this very object that it is not there. A 404 without its name may be about its kind, or come
    /// from something in between.
    pub(crate) fn says_missing(&self, name: &str) -> bool {
        self.status().is_some_and(|status| {
            status.code == 404 && status.details.as_ref().is_some_and(|details| details.name == name)
        })
    }

    /// The answer of the API server, where it gave one.
    pub(crate) fn status(&self) -> Option<&Status> {
        match self {
            CallError::Kube { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            CallError::Timeout { .. } | CallError::Dropped { .. } => None,
        }
    }

    /// As an outcome: what the API server does not answer passes by itself.
    pub(crate) fn problem(&self) -> Problem {
        match self.status() {
            Some(status) if status.code == 403 => Problem::new(
                Reason::InternalError,
                format!(
                    "the operator's ServiceAccount may not do this in the cluster ({self}): install its RBAC again"
                ),
            ),
            Some(_) => Problem::new(Reason::Unavailable, describe(self)),
            // Not the cause's own words: of an answer that cannot be read they may repeat a part.
            None => Problem::new(Reason::Unavailable, self.to_string()),
        }
    }
}

/// Runs one call within the time limit.
///
/// # Errors
/// No answer in time, or another one than hoped for.
pub(crate) async fn call<T>(
    what: &'static str,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, CallError> {
    // It is never closed.
    let _place = UNDER_WAY.acquire().await;
    call_within(CALL_LIMIT, what, request).await
}

/// The same within a limit of its own, and without waiting for a place among the calls under way: whether one leads must not wait for
/// calls that hang.
///
/// # Errors
/// As [`call`].
pub(crate) async fn call_within<T>(
    limit: Duration,
    what: &'static str,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(limit, request).await {
        Err(_) => Err(CallError::Timeout { what, limit }),
        Ok(Err(source)) => Err(CallError::Kube { what, source: Box::new(source) }),
        Ok(Ok(answer)) => Ok(answer),
    }
}

/// All objects of a kind, page by page.
///
/// # Errors
/// See [`CallError`].
pub(crate) async fn list<K>(what: &'static str, api: &Api<K>, params: ListParams) -> Result<Vec<K>, CallError>
where
    K: Clone + DeserializeOwned + Debug,
{
    let mut objects = Vec::new();
    let mut params = params.limit(PAGE_SIZE);
    loop {
        let page = call(what, api.list(&params)).await?;
        objects.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            // The API server's own lists end.
            Some(token) => params.continue_token = Some(token),
            None => return Ok(objects),
        }
    }
}

/// The API server, to be read from alone.
#[derive(Clone)]
pub(crate) struct Reader(Client);

impl Reader {
    /// Reads with this client.
    pub(crate) fn new(client: Client) -> Self {
        Self(client)
    }

    /// An object of a kind without namespaces, or its metadata alone if `K` is that.
    ///
    /// # Errors
    /// See [`CallError`].
    pub(crate) async fn get<K>(&self, what: &'static str, name: &str) -> Result<K, CallError>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        call(what, Api::<K>::all(self.0.clone()).get(name)).await
    }

    /// An object of a namespace, or its metadata alone if `K` is that.
    ///
    /// # Errors
    /// See [`CallError`].
    pub(crate) async fn get_in<K>(
        &self,
        what: &'static str,
        namespace: &str,
        name: &str,
    ) -> Result<K, CallError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        call(what, Api::<K>::namespaced(self.0.clone(), namespace).get(name)).await
    }
}

/// A client without hidden retries: the controllers come back by themselves, and a write repeated in silence is one
/// nobody decided.
///
/// # Errors
/// No kubeconfig and no ServiceAccount, or a broken one.
pub(crate) async fn client() -> Result<Client, kube::Error> {
    connect(Config::infer().await.map_err(kube::Error::InferConfig)?)
}

/// The same where it is known which API server, and as whom.
///
/// # Errors
/// A broken configuration.
pub(crate) fn connect(mut config: Config) -> Result<Client, kube::Error> {
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(5));
    Client::try_from(config)
}
