//! Which cluster a tool speaks with and as whom: the user's kubeconfig, as kubectl finds it.
//! What is asked there is left to the tools.

use std::fmt::Debug;
use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use clap::Args;
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, Resource};
use serde::de::DeserializeOwned;

use crate::kubernetes::{CallError, connect, list};
use crate::watch::describe;

/// Which cluster.
#[derive(Args, Clone, Debug)]
pub(crate) struct Cluster {
    /// The kubeconfig file [default: KUBECONFIG, or ~/.kube/config, or the pod's ServiceAccount]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

/// Which namespaces.
#[derive(Args, Clone, Debug)]
pub(crate) struct Namespaces {
    /// The namespace [default: that of the kubeconfig's context]
    #[arg(long, short, value_name = "NAME")]
    namespace: Option<String>,
    /// All namespaces, and the resources without one
    #[arg(long, short = 'A', conflicts_with = "namespace")]
    all_namespaces: bool,
}

impl Namespaces {
    /// The one namespace; `None`: all of them.
    pub(crate) fn one(&self, connection: &Connection) -> Option<String> {
        (!self.all_namespaces).then(|| self.or_default(connection))
    }

    /// Where a resource is that says nothing of its own.
    pub(crate) fn or_default(&self, connection: &Connection) -> String {
        self.namespace.clone().unwrap_or_else(|| connection.namespace.clone())
    }
}

/// The way to the API server.
#[derive(Clone)]
pub(crate) struct Connection {
    /// The client, as the user.
    pub client: Client,
    /// The namespace of the context.
    pub namespace: String,
    /// The API server's address, for messages.
    pub url: String,
}

impl Cluster {
    /// Finds it. Makes no call.
    pub(crate) async fn connect(&self) -> anyhow::Result<Connection> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let config = match &self.kubeconfig {
            Some(path) => {
                let kubeconfig = Kubeconfig::read_from(path)
                    .with_context(|| format!("--kubeconfig {}", path.display()))?;
                Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(anyhow::Error::from)
            }
            None if self.context.is_some() => {
                Config::from_kubeconfig(&options).await.map_err(anyhow::Error::from)
            }
            None => Config::infer().await.map_err(|error| {
                anyhow!("no cluster is known ({error}): give --kubeconfig FILE, or set KUBECONFIG")
            }),
        };
        let config = config.context("the kubeconfig cannot be used")?;
        let (namespace, url) = (config.default_namespace.clone(), config.cluster_url.to_string());
        let client = connect(config)
            .map_err(|error| anyhow!("the kubeconfig cannot be used: {}", describe(&error)))?;
        Ok(Connection { client, namespace, url: url.trim_end_matches('/').to_owned() })
    }
}

/// What a list came to.
pub(crate) enum Listed<K> {
    /// These.
    Objects(Vec<K>),
    /// The user may not see them; the API server's word.
    Forbidden(String),
    /// The cluster has no such kind.
    NoKind,
}

impl Connection {
    /// Lists all objects. What may not be seen is no error.
    pub(crate) async fn list<K>(
        &self,
        api: Api<K>,
        what: &'static str,
        params: ListParams,
    ) -> anyhow::Result<Listed<K>>
    where
        K: Resource + Clone + DeserializeOwned + Debug,
    {
        let error = match list(what, &api, params).await {
            Ok(objects) => return Ok(Listed::Objects(objects)),
            Err(error) => error,
        };
        match error.status().map(|status| (status.code, status.message.clone())) {
            Some((403, message)) => Ok(Listed::Forbidden(message)),
            Some((404, _)) => Ok(Listed::NoKind),
            _ => Err(self.unanswered(&error)),
        }
    }

    /// One line of what a call met.
    pub(crate) fn unanswered(&self, error: &CallError) -> anyhow::Error {
        match error {
            CallError::Timeout { what, .. } => {
                anyhow!("the API server {} does not answer ({what}): check the network", self.url)
            }
            // Of what is written alone, and tools write no claims.
            CallError::Dropped { .. } => anyhow!("{error}"),
            CallError::Kube { what, source } => match source.as_ref() {
                kube::Error::Api(status) if status.code == 401 => anyhow!(
                    "the API server {} does not know you ({}): log in again, or correct the kubeconfig",
                    self.url,
                    status.message
                ),
                kube::Error::Api(status) => anyhow!("the API server refuses ({what}): {}", status.message),
                other => anyhow!(
                    "the API server {} cannot be reached ({what}): {}; check the kubeconfig's context and the network",
                    self.url,
                    describe(other)
                ),
            },
        }
    }
}
