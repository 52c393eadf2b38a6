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
    use crate::fingerprint::Fingerprint;
    use crate::names::Cloud;
    use crate::ownership::{ClusterId, Owner, OwnerKind};
    use crate::push::{Act, InFlight, Record};
    use crate::title::Adoption;

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

    fn desired() -> Desired {
        Desired {
            owner: Owner {
                cluster: ClusterId::parse("c1").unwrap(),
                kind: OwnerKind::KeyVaultSync,
                namespace: "web".into(),
                name: "web".into(),
            },
            source: "web/web-tls".into(),
            keys: ["tls.crt".into(), "tls.key".into()],
            tags: Tags::from([("team".into(), "web".into())]),
            exportable: true,
            adoption: Adoption::default(),
            suspend: false,
        }
    }

    /// A claim in step.
    fn memory() -> Memory {
        let fingerprint = Fingerprint::LeafAndChain([1; 32]);
        let record = Record { version: "v1".into(), thumbprint: [1; 20], fingerprint, not_after: 0 };
        let desired = Some(desired().hash());
        Memory { record: Some(record), desired, reason: Some(Reason::Synced), ..Memory::default() }
    }

    #[test]
    fn only_of_a_claim_in_step_is_it_known_what_the_list_has_to_show() {
        let in_flight = Some(InFlight { act: Act::Retag, fingerprint: None, since: 0 });
        let suspended = Desired { suspend: true, ..desired() };
        let changed = Desired { exportable: false, ..desired() };
        let because = |reason| Memory { reason, ..memory() };
        for (what, desired, memory, is_known) in [
            ("in step", desired(), memory(), true),
            ("in step, chain incomplete", desired(), because(Some(Reason::IncompleteChain)), true),
            ("no outcome yet", desired(), because(None), false),
            ("refused", desired(), because(Some(Reason::OwnedByAnother)), false),
            ("disabled", desired(), because(Some(Reason::DisabledInVault)), false),
            ("never pushed", desired(), Memory { record: None, ..memory() }, false),
            ("under way", desired(), Memory { in_flight, ..memory() }, false),
            ("wish changed", changed, memory(), false),
            ("suspended", suspended, memory(), false),
        ] {
            assert_eq!(Expected::of(&desired, &memory).is_some(), is_known, "{what}");
        }
    }

    #[test]
    fn a_row_that_differs_in_anything_it_shows_is_a_difference() {
        let expected = Expected::of(&desired(), &memory()).unwrap();
        let fingerprint = Fingerprint::LeafAndChain([1; 32]);
        let row = ListedFacts {
            name: "WEB".into(),
            thumbprint: Some([1; 20]),
            enabled: true,
            tags: wanted_tags(&desired(), &fingerprint),
        };
        let with = |change: fn(&mut Tags)| {
            let mut row = row.clone();
            change(&mut row.tags);
            Some(row)
        };
        let stray = with(|tags| drop(tags.insert("stray".into(), String::new())));
        let missing = with(|tags| drop(tags.remove("team")));
        let edited = with(|tags| drop(tags.insert("team".into(), "api".into())));
        for (what, row, differs) in [
            ("untouched", Some(row.clone()), false),
            ("not listed", None, true),
            ("another leaf", Some(ListedFacts { thumbprint: Some([2; 20]), ..row.clone() }), true),
            ("creation pending", Some(ListedFacts { thumbprint: None, ..row.clone() }), true),
            ("disabled", Some(ListedFacts { enabled: false, ..row.clone() }), true),
            ("imported by hand", Some(ListedFacts { tags: Tags::new(), ..row.clone() }), true),
            ("a tag more", stray, true),
            ("a tag less", missing, true),
            ("a tag edited", edited, true),
        ] {
            assert_eq!(expected.differs(row.as_ref()), differs, "{what}");
        }
    }

    #[test]
    fn an_adopted_version_is_expected_with_the_tag_it_got() {
        let mut memory = memory();
        let leaf = Fingerprint::Leaf([1; 32]);
        memory.record.as_mut().unwrap().fingerprint = leaf.clone();
        let expected = Expected::of(&desired(), &memory).unwrap();
        let row = |fingerprint| ListedFacts {
            name: "web".into(),
            thumbprint: Some([1; 20]),
            enabled: true,
            tags: wanted_tags(&desired(), fingerprint),
        };
        assert!(!expected.differs(Some(&row(&leaf))));
        assert!(expected.differs(Some(&row(&Fingerprint::LeafAndChain([1; 32])))));
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
