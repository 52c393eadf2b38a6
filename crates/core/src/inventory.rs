//! The comparison of a vault with the claims there are on it: when, by a list or one by one, and what differs.
//! Calling the vault is left to the operator; what is done about a difference, to `push`.

use crate::facts::ListedFacts;
use crate::names::VaultHost;
use crate::ownership::Tags;
use crate::push::{Desired, Memory, wanted_tags};
use crate::reason::Reason;

/// Certificates on a page of Key Vault's list, at most
/// (<https://learn.microsoft.com/rest/api/keyvault/certificates/get-certificates/get-certificates>).
pub const PAGE: usize = 25;

/// Which comparison interval `now` is in. The phase is a pure function of vault and interval: a restart shifts
/// nothing, nothing is stored, and the vaults of a fleet do not all compare at the full hour.
pub fn comparison_tick(host: &VaultHost, interval_secs: i64, now: i64) -> i64 {
    (now - phase(host, interval_secs)).div_euclid(interval_secs.max(1))
}

/// When the next comparison is due, unix seconds.
pub fn next_comparison(host: &VaultHost, interval_secs: i64, now: i64) -> i64 {
    (comparison_tick(host, interval_secs, now) + 1) * interval_secs.max(1) + phase(host, interval_secs)
}

fn phase(host: &VaultHost, interval_secs: i64) -> i64 {
    let digest = host.as_str().bytes().fold(0_i64, |sum, byte| (sum * 131 + i64::from(byte)) % 1_000_003);
    digest % interval_secs.max(1)
}

/// How the certificates of a vault are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// There is nothing to compare.
    Not,
    /// A read of each.
    Singly,
    /// The list, of so many pages at the most; where there are more, a read of each is fewer calls.
    List {
        /// Pages.
        pages_max: usize,
    },
}

/// Chooses what costs fewer calls. `pages` is how many the list had when it was read last, others' certificates among ours;
/// where that is not known, the vault is taken to hold what is claimed.
pub fn method(claimed: usize, pages: Option<usize>, may_list: bool) -> Method {
    let pages = pages.unwrap_or_else(|| claimed.div_ceil(PAGE));
    match claimed {
        0 => Method::Not,
        _ if !may_list || pages >= claimed => Method::Singly,
        _ => Method::List { pages_max: claimed - 1 },
    }
}

/// What the list has to show of a certificate that nobody touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// SHA-1 of the leaf.
    pub thumbprint: [u8; 20],
    /// All its tags.
    pub tags: Tags,
}

impl Expected {
    /// Of a claim that is in step; `None` for any other, which is looked at again by itself.
    pub fn of(desired: &Desired, memory: &Memory) -> Option<Self> {
        let record = memory.record.as_ref()?;
        let is_in_step = matches!(memory.reason, Some(Reason::Synced | Reason::IncompleteChain))
            && memory.in_flight.is_none()
            && memory.desired.as_deref() == Some(desired.hash().as_str())
            && !desired.suspend;
        is_in_step
            .then(|| Self { thumbprint: record.thumbprint, tags: wanted_tags(desired, &record.fingerprint) })
    }

    /// Whether the vault shows something else: then the claim has to look itself.
    pub fn differs(&self, listed: Option<&ListedFacts>) -> bool {
        listed.is_none_or(|listed| {
            listed.thumbprint != Some(self.thumbprint) || listed.tags != self.tags || !listed.enabled
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Cloud;

    #[test]
    fn comparisons_come_once_an_interval_whenever_the_operator_was_started() {
        let host = VaultHost::from_url("https://contoso.vault.azure.net", &Cloud::ALL).unwrap();
        for now in [0, 1, 3_599, 3_600, 1_750_000_000] {
            let next = next_comparison(&host, 3_600, now);
            assert!(next > now && next <= now + 3_600, "{now} {next}");
            assert_eq!(comparison_tick(&host, 3_600, next), comparison_tick(&host, 3_600, now) + 1);
            assert_eq!(comparison_tick(&host, 3_600, next - 1), comparison_tick(&host, 3_600, now));
        }
    }

    #[test]
    fn what_costs_fewer_calls_is_chosen() {
        for (claimed, pages, may_list, chosen) in [
            (0, None, true, Method::Not),
            (1, None, true, Method::Singly),
            (2, None, true, Method::List { pages_max: 1 }),
            (30, None, true, Method::List { pages_max: 29 }),
            (30, None, false, Method::Singly),
            (3, Some(2), true, Method::List { pages_max: 2 }),
            (3, Some(3), true, Method::Singly),
            (500, Some(499), true, Method::List { pages_max: 499 }),
            (500, Some(500), true, Method::Singly),
        ] {
            assert_eq!(method(claimed, pages, may_list), chosen, "{claimed} on {pages:?} pages");
        }
    }
}
