//! Installations of the operator in one cluster: the name of each, and whether another one is still there, by its Lease.
//! Whose claim is whose is left to `world`; who leads within an installation, to `leader`.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use keyvault_sync_core::lease::{LASTS_MAX, Record};
use kube::Client;
use kube::api::Api;
use tokio::time::Instant;

use crate::kubernetes::call;
use crate::leader;
use crate::watch::describe;

/// What was seen of a Lease is believed for so long.
const FRESH: Duration = Duration::from_secs(5);

/// An installation: the namespace it is in, a dot, its release. Its Lease has that namespace and name; its claims that label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Installation {
    text: String,
    dot: usize,
}

impl Installation {
    /// Where it is.
    pub(crate) fn namespace(&self) -> &str {
        &self.text[..self.dot]
    }

    /// The name of its release, and of its Lease.
    pub(crate) fn name(&self) -> &str {
        &self.text[self.dot + 1..]
    }

    /// As claims are labelled.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Installation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Installation {
    type Err = String;

    /// A label value of two names; the first, a namespace's, has no dot.
    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let is_part = |part: &str| {
            !part.is_empty() && !part.starts_with('-') && !part.ends_with('-') && part.chars().all(plain)
        };
        match text.split_once('.') {
            Some((namespace, name))
                if text.len() <= 63 && is_part(namespace) && name.split('.').all(is_part) =>
            {
                Ok(Self { text: text.to_owned(), dot: namespace.len() })
            }
            _ => Err(format!(
                "{text:?} names no installation: the operator's namespace, a dot, the release, at most 63 of a-z, 0-9, '-' and '.'"
            )),
        }
    }
}

/// What was seen of other installations' Leases.
#[derive(Debug, Default)]
pub(crate) struct Others(Mutex<HashMap<String, Sighting>>);

#[derive(Clone, Debug)]
struct Sighting {
    /// What the Lease said; `None`: there is none.
    record: Option<Record>,
    /// Since when it says so, as far as is known.
    since: Instant,
    looked: Instant,
}

impl Sighting {
    fn is_over(&self) -> bool {
        self.record.as_ref().is_none_or(|record| self.since.elapsed() > record.lasts.min(LASTS_MAX))
    }
}

impl Others {
    /// Whether nobody leads the installation of this label any more, by our own clock: its Lease is not there, or was not renewed for
    /// as long as it lasts. What cannot be asked is not gone.
    pub(crate) async fn is_gone(&self, label: &str, client: &Client) -> bool {
        // What names no installation is nobody's.
        let Ok(installation) = label.parse::<Installation>() else { return true };
        if let Some(seen) = self.seen(label).filter(|seen| seen.looked.elapsed() < FRESH) {
            return seen.is_over();
        }
        let api: Api<Lease> = Api::namespaced(client.clone(), installation.namespace());
        let record = match call("another installation's Lease", api.get(installation.name())).await {
            Ok(lease) => Some(leader::record(&lease)),
            Err(error) if error.says_missing(installation.name()) => None,
            Err(error) => {
                tracing::debug!(installation = label, error = %describe(&error), "it cannot be told whether an installation is gone");
                return false;
            }
        };
        self.note(label, record).is_over()
    }

    fn seen(&self, label: &str) -> Option<Sighting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(label).cloned()
    }

    fn note(&self, label: &str, record: Option<Record>) -> Sighting {
        let looked = Instant::now();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = all.get(label).filter(|seen| seen.record == record).map_or(looked, |seen| seen.since);
        let seen = Sighting { record, since, looked };
        all.insert(label.to_owned(), seen.clone());
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyvault_sync_core::lease::Holder;

    #[test]
    fn an_installation_is_a_namespace_a_dot_and_a_release() {
        let installation: Installation = "operators.keyvault-sync".parse().unwrap();
        assert_eq!((installation.namespace(), installation.name()), ("operators", "keyvault-sync"));
        let long = format!("a.{}", "a".repeat(62));
        for bad in ["", "operators", ".a", "a.", "a..b", "-a.b", "a.b-", "A.b", "a/b", long.as_str()] {
            assert!(bad.parse::<Installation>().unwrap_err().contains("names no installation"), "{bad}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_installation_is_gone_when_its_lease_was_not_renewed_for_as_long_as_it_lasts() {
        let others = Others::default();
        let record = |renewed: &str| {
            Some(Record {
                holder: Some(Holder::parse("one_1")),
                renewed: renewed.into(),
                lasts: Duration::from_secs(30),
            })
        };
        assert!(others.note("none", None).is_over());
        assert!(!others.note("a", record("1")).is_over());
        tokio::time::advance(Duration::from_secs(29)).await;
        assert!(!others.note("a", record("2")).is_over(), "renewed");
        tokio::time::advance(Duration::from_secs(29)).await;
        assert!(!others.note("a", record("2")).is_over());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(others.note("a", record("2")).is_over());
        assert!(!others.note("a", record("3")).is_over(), "it came back");
    }
}
