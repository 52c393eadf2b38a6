//! Calls of vaults and requests for tokens, as the adapter tells of them: counted, and put into the span of the call.
//! What a failure leads to is left to `context` and the controllers.

use std::sync::Arc;

use keyvault_sync_core::reason::Reason;
use keyvault_sync_vault::{Called, Observer, TokenOutcome};
use tracing::Span;

use crate::metrics::Metrics;

/// Counts.
pub(crate) struct VaultCalls(pub(crate) Arc<Metrics>);

impl Observer for VaultCalls {
    fn called(&self, call: Called<'_>) {
        let outcome = call.failure.map_or("ok", Reason::as_str);
        let code = call.status.map_or("none".to_owned(), |status| status.to_string());
        self.0.vault_calls.inc([call.vault.as_str(), call.operation, outcome, &code]);
        let span = Span::current();
        span.record("outcome", outcome);
        if let Some(status) = call.status {
            span.record("http.response.status_code", status);
        }
        if let Some(id) = call.request_id {
            span.record("az.service_request_id", id);
        }
        self.0.vault_call_seconds.observe([call.vault.as_str()], call.took);
    }

    fn asked_for_token(&self, outcome: TokenOutcome) {
        let word = match outcome {
            TokenOutcome::Issued => "ok",
            TokenOutcome::Refused => "refused",
            TokenOutcome::Unanswered => "unanswered",
            TokenOutcome::Unproven => "unproven",
        };
        self.0.token_requests.inc([word]);
    }
}
