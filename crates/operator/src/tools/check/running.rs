//! Whether the operator itself works: the definitions of its kinds are of this version, and one of its replicas leads.
//! The times in a Lease are another machine's, so that it leads is seen by its renewing the Lease, not by a clock.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use keyvault_sync_core::lease::{LASTS_MAX, Record};
use kube::api::Api;
use tokio::time::Instant;

use super::super::cluster::Connection;
use super::super::note;
use super::super::operator::Told;
use super::{Step, Went};
use crate::kubernetes::call;
use crate::{definitions, leader};

/// How often the Lease is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How long a lease lasts where that is not known.
const LASTS: Duration = Duration::from_secs(30);
/// When one has ended whose holder is gone, a standby takes it within this.
const TAKES: Duration = Duration::from_secs(5);

/// Looks at both.
///
/// # Errors
/// The API server does not answer, or the Lease may not be read.
pub(super) async fn steps(told: &Told, connection: &Connection) -> anyhow::Result<Vec<Step>> {
    let definitions = match definitions::look(&connection.client, told.serves_all()).await {
        Some(problem) => (Went::Failed, problem),
        None => (Went::Ok, format!("those of version {} are served", env!("CARGO_PKG_VERSION"))),
    };
    let leader = leader(told, connection).await?;
    let step = |step, (outcome, message)| Step { step, outcome, message };
    Ok(vec![step("definitions", definitions), step("leader", leader)])
}

/// Watches the Lease until it is renewed, or long enough to know that it is not.
async fn leader(told: &Told, connection: &Connection) -> anyhow::Result<(Went, String)> {
    let installation = told.installation();
    let (namespace, name) = (installation.namespace(), installation.name());
    let leases = Api::<Lease>::namespaced(connection.client.clone(), namespace);
    let begun = Instant::now();
    let mut before: Option<Option<Record>> = None;
    loop {
        let now = match call("the operator's Lease", leases.get(name)).await {
            Ok(lease) => Some(leader::record(&lease)),
            Err(error) if error.says_missing(name) => None,
            Err(error) => return Err(connection.unanswered(&error)),
        };
        // Of `<pod>_<its uid>` the pod says enough.
        let holder = now.as_ref().and_then(|record| record.holder.as_ref()?.instance.split('_').next());
        if let (Some(holder), Some(before)) = (holder, &before)
            && *before != now
        {
            return Ok((Went::Ok, format!("{holder} leads: it was seen renewing Lease {namespace}/{name}")));
        }
        let patience = now.as_ref().map_or(LASTS, |record| record.lasts.min(LASTS_MAX)) + TAKES;
        if begun.elapsed() >= patience {
            let met = match (holder, &now) {
                (Some(holder), _) => {
                    format!("{holder} holds Lease {namespace}/{name} and did not renew it")
                }
                (None, Some(_)) => format!("nobody took Lease {namespace}/{name}"),
                (None, None) => format!("there was no Lease {namespace}/{name}"),
            };
            let next = format!("look at its pods and their logs: kubectl get pods -n {namespace}");
            let message = format!("no replica leads: {met} in {} s; {next}", patience.as_secs());
            return Ok((Went::Failed, message));
        }
        if before.is_none() {
            note(&format!(
                "waiting until a replica renews Lease {namespace}/{name}, {} s at most",
                patience.as_secs()
            ));
        }
        before = Some(now);
        tokio::time::sleep(LOOK).await;
    }
}
