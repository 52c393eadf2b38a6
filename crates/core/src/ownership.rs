//! Who owns a certificate in a vault: owners written as tags, and tags read as owners. The only file that spells a tag.
//! What follows from an owner that is not us is left to `push`.

use std::collections::BTreeMap;
use std::fmt;

use crate::fingerprint::Fingerprint;
use crate::names::quote;
use crate::reason::{Problem, Reason};

/// A tag's key and its value have at most this many characters each
/// (<https://learn.microsoft.com/azure/key-vault/general/about-keys-secrets-certificates>).
pub const TAG_LENGTH_MAX: usize = 256;
/// Key Vault holds 15 tags on a version; four are ours.
pub const USER_TAGS_MAX: usize = 11;

const MANAGED_BY: &str = "managed-by";
const MANAGED_BY_US: &str = "keyvault-sync";
const OWNER: &str = "keyvault-sync-owner";
const SOURCE: &str = "keyvault-sync-source";
const FINGERPRINT: &str = "keyvault-sync-fingerprint";

/// The tags that only keyvault-sync sets; a user's tag of such a name, in whatever case, is refused.
pub const RESERVED_TAGS: [&str; 4] = [MANAGED_BY, OWNER, SOURCE, FINGERPRINT];
/// What the names of our own tags begin with; reserved for tags to come.
pub const RESERVED_TAG_PREFIX: &str = "keyvault-sync-";

/// A vault version's tags.
pub type Tags = BTreeMap<String, String>;

/// Which cluster writes: the UID of its `kube-system` namespace, or what the operator was told.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterId(String);

impl ClusterId {
    /// At most 63 of `[a-z0-9-]`.
    ///
    /// # Errors
    /// A sentence with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let plain = text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if text.is_empty() || text.len() > 63 || !plain {
            return Err(format!("{} cannot be a cluster id: 1 to 63 of a-z, 0-9 and hyphen", quote(text)));
        }
        Ok(Self(text.to_owned()))
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The kinds that can own a certificate in a vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OwnerKind {
    /// A `KeyVaultSync`.
    KeyVaultSync,
    /// A `ClusterKeyVaultSync`, which has no namespace.
    ClusterKeyVaultSync,
}

impl OwnerKind {
    /// The Kubernetes kind.
    pub fn as_str(self) -> &'static str {
        match self {
            OwnerKind::KeyVaultSync => "KeyVaultSync",
            OwnerKind::ClusterKeyVaultSync => "ClusterKeyVaultSync",
        }
    }

    /// The kind of this name, if it can own a certificate.
    pub fn parse(kind: &str) -> Option<Self> {
        [OwnerKind::KeyVaultSync, OwnerKind::ClusterKeyVaultSync].into_iter().find(|one| one.as_str() == kind)
    }
}

/// Whose certificate it is: `<cluster id>/<kind>/<namespace>/<name>`. Without the resource's uid, so that a resource
/// deleted and applied again is the same owner.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The cluster.
    pub cluster: ClusterId,
    /// The resource's kind.
    pub kind: OwnerKind,
    /// The resource's namespace.
    pub namespace: String,
    /// The resource's name.
    pub name: String,
}

impl Owner {
    /// Reads what [`Owner`]'s `Display` wrote; `None` for a tag that nobody of keyvault-sync wrote so.
    pub fn parse(tag: &str) -> Option<Self> {
        let mut parts = tag.splitn(4, '/');
        let (cluster, kind, namespace, name) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let kind = OwnerKind::parse(kind)?;
        let has_namespace = match kind {
            OwnerKind::KeyVaultSync => true,
            OwnerKind::ClusterKeyVaultSync => false,
        };
        if namespace.is_empty() == has_namespace || name.is_empty() || name.contains('/') {
            return None;
        }
        Some(Self {
            cluster: ClusterId::parse(cluster).ok()?,
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }

    /// Of the same cluster, kind and namespace: who may succeed whom.
    fn is_family(&self, other: &Owner) -> bool {
        (&self.cluster, self.kind, &self.namespace) == (&other.cluster, other.kind, &other.namespace)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.cluster, self.kind.as_str(), self.namespace, self.name)
    }
}

/// What the tags of a version say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// It is ours, and this is what we said of its content (`None` if that tag is gone or unreadable).
    Ours(Option<Fingerprint>),
    /// It names another resource of our cluster, kind and namespace: perhaps one that we succeed.
    Sibling {
        /// Which.
        owner: Owner,
        /// What it said of its content.
        fingerprint: Option<Fingerprint>,
    },
    /// It names another owner.
    Another {
        /// Which, if the tag is one that keyvault-sync writes.
        owner: Option<Owner>,
        /// In words for a message.
        said: String,
        /// What it said of its content.
        fingerprint: Option<Fingerprint>,
    },
    /// It has no owner tag of keyvault-sync.
    Unmanaged {
        /// Which program its tags point at, in words for a message.
        written_by: Option<&'static str>,
    },
}

/// Reads the tags of a version as `owner` sees them.
pub fn read(tags: &Tags, owner: &Owner) -> Ownership {
    let Some(tag) = tags.get(OWNER) else {
        return Ownership::Unmanaged { written_by: written_by(tags) };
    };
    let fingerprint = tags.get(FINGERPRINT).and_then(|text| text.parse().ok());
    if *tag == owner.to_string() {
        return Ownership::Ours(fingerprint);
    }
    match Owner::parse(tag) {
        Some(other) if other.is_family(owner) => Ownership::Sibling { owner: other, fingerprint },
        other => Ownership::Another { owner: other, said: quote(tag), fingerprint },
    }
}

/// Whose habit these tags are.
///
/// Sources: the tags that cert-manager-key-vault-sync sets (`SyncFrom`, `namespace`), and the one by which External Secrets
/// knows what it pushed (`managed-by: external-secrets`).
fn written_by(tags: &Tags) -> Option<&'static str> {
    if tags.contains_key("SyncFrom") {
        return Some("cert-manager-key-vault-sync");
    }
    (tags.get(MANAGED_BY).map(String::as_str) == Some("external-secrets")).then_some("External Secrets")
}

/// The whole set of tags of a version: the user's and ours.
///
/// `source` is `<namespace>/<secret>`, cut to what a tag holds: it is for people, nothing reads it back.
pub fn tags(owner: &Owner, source: &str, fingerprint: &Fingerprint, user: &Tags) -> Tags {
    let mut tags = user.clone();
    tags.insert(MANAGED_BY.into(), MANAGED_BY_US.into());
    tags.insert(OWNER.into(), owner.to_string());
    tags.insert(SOURCE.into(), source.chars().take(TAG_LENGTH_MAX).collect());
    tags.insert(FINGERPRINT.into(), fingerprint.to_string());
    tags
}

/// The user's tags of a whole resource and of one entry, the entry's winning.
///
/// # Errors
/// `InvalidTags`: more than 11 together, a key or value too long or empty key, or one of ours.
pub fn user_tags(resource: &Tags, entry: &Tags) -> Result<Tags, Problem> {
    let mut all = resource.clone();
    all.extend(entry.clone());
    let invalid = |message: String| Err(Problem::new(Reason::InvalidTags, message));
    if all.len() > USER_TAGS_MAX {
        return invalid(format!(
            "{} tags are asked for, at most {USER_TAGS_MAX} are possible (Key Vault holds 15, keyvault-sync needs 4): \
             remove {}",
            all.len(),
            all.len() - USER_TAGS_MAX
        ));
    }
    for (key, value) in &all {
        if is_reserved(key) {
            return invalid(format!(
                "tag {} is set by keyvault-sync itself: choose another name",
                quote(key)
            ));
        }
        if key.is_empty() || key.chars().count() > TAG_LENGTH_MAX || value.chars().count() > TAG_LENGTH_MAX {
            return invalid(format!(
                "tag {}: its name and its value may have at most {TAG_LENGTH_MAX} characters, its name at least one",
                quote(key)
            ));
        }
    }
    Ok(all)
}

fn is_reserved(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    RESERVED_TAGS.contains(&key.as_str()) || key.starts_with(RESERVED_TAG_PREFIX)
}

/// The tags there are that should not be, and those missing or different: for the Event of a repair.
pub fn difference(found: &Tags, wanted: &Tags) -> (Vec<String>, Vec<String>) {
    let dropped = found.keys().filter(|key| !wanted.contains_key(*key)).map(|key| quote(key)).collect();
    let set = wanted
        .iter()
        .filter(|(key, value)| found.get(*key) != Some(value))
        .map(|(key, _)| quote(key))
        .collect();
    (dropped, set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(name: &str) -> Owner {
        Owner {
            cluster: ClusterId::parse("c1").unwrap(),
            kind: OwnerKind::KeyVaultSync,
            namespace: "web".into(),
            name: name.into(),
        }
    }

    fn fingerprint() -> Fingerprint {
        format!("sha256:{}", "ab".repeat(32)).parse().unwrap()
    }

    #[test]
    fn what_we_write_we_read_back_as_ours() {
        let tags =
            tags(&owner("web"), "web/web-tls", &fingerprint(), &Tags::from([("team".into(), "web".into())]));
        assert_eq!(tags.len(), 5);
        assert_eq!(read(&tags, &owner("web")), Ownership::Ours(Some(fingerprint())));
        let sibling = Ownership::Sibling { owner: owner("web"), fingerprint: Some(fingerprint()) };
        assert_eq!(read(&tags, &owner("other")), sibling);
        let another = Ownership::Another {
            owner: Some(owner("web")),
            said: "\"c1/KeyVaultSync/web/web\"".to_owned(),
            fingerprint: Some(fingerprint()),
        };
        let elsewhere = [
            Owner { namespace: "web2".into(), ..owner("web") },
            Owner { cluster: ClusterId::parse("c2").unwrap(), ..owner("web") },
            Owner { kind: OwnerKind::ClusterKeyVaultSync, namespace: String::new(), ..owner("web") },
        ];
        for stranger in elsewhere {
            assert_eq!(read(&tags, &stranger), another);
        }
    }

    #[test]
    fn tags_of_others_are_not_ours() {
        for (pairs, written_by) in [
            (&[][..], None),
            (&[("managed-by", "external-secrets")], Some("External Secrets")),
            (&[("managed-by", "keyvault-sync")], None),
            (&[("SyncFrom", "cert-manager"), ("namespace", "web")], Some("cert-manager-key-vault-sync")),
        ] {
            let tags = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            assert_eq!(read(&tags, &owner("web")), Ownership::Unmanaged { written_by }, "{pairs:?}");
        }
    }

    #[test]
    fn an_owner_tag_is_read_back_or_is_none_of_ours() {
        let cluster =
            Owner { kind: OwnerKind::ClusterKeyVaultSync, namespace: String::new(), ..owner("all") };
        assert_eq!(cluster.to_string(), "c1/ClusterKeyVaultSync//all");
        for known in [owner("web"), cluster] {
            assert_eq!(Owner::parse(&known.to_string()), Some(known));
        }
        for forged in [
            "",
            "c1",
            "c1/KeyVaultSync/web",
            "c1/KeyVaultSync//web",
            "c1/KeyVaultSync/web/",
            "c1/KeyVaultSync/web/a/b",
            "c1/ClusterKeyVaultSync/web/a",
            "C1/KeyVaultSync/web/a",
            "c1/Secret/web/a",
        ] {
            assert_eq!(Owner::parse(forged), None, "{forged}");
            let tags = Tags::from([(OWNER.to_owned(), forged.to_owned())]);
            assert!(matches!(read(&tags, &owner("web")), Ownership::Another { owner: None, .. }), "{forged}");
        }
    }

    #[test]
    fn an_owner_always_fits_a_tag() {
        let longest = Owner {
            cluster: ClusterId::parse(&"c".repeat(63)).unwrap(),
            kind: OwnerKind::KeyVaultSync,
            namespace: "n".repeat(63),
            name: "s".repeat(63),
        };
        assert!(longest.to_string().len() <= TAG_LENGTH_MAX);
        let source = format!("{}/{}", "n".repeat(63), "s".repeat(253));
        assert!(
            tags(&longest, &source, &fingerprint(), &Tags::new())
                .values()
                .all(|value| value.len() <= TAG_LENGTH_MAX)
        );
    }

    #[test]
    fn tags_that_cannot_be_are_refused() {
        let many: Tags = (0..8).map(|n| (format!("a{n}"), String::new())).collect();
        let more: Tags = (0..4).map(|n| (format!("b{n}"), String::new())).collect();
        assert!(user_tags(&many, &Tags::from([("a0".into(), "x".into())])).is_ok());
        assert!(user_tags(&many, &more).unwrap_err().message.contains("remove 1"));
        for key in ["managed-by", "Managed-By", "keyvault-sync-owner", "Keyvault-Sync-anything", ""] {
            let problem = user_tags(&Tags::from([(key.into(), "x".into())]), &Tags::new()).unwrap_err();
            assert_eq!(problem.reason, Reason::InvalidTags, "{key}");
        }
        assert!(user_tags(&Tags::from([("k".into(), "v".repeat(257))]), &Tags::new()).is_err());
    }

    #[test]
    fn a_difference_names_what_goes_and_what_comes() {
        let found = Tags::from([("a".into(), "1".into()), ("x".into(), "1".into())]);
        let wanted = Tags::from([("a".into(), "2".into()), ("b".into(), "1".into())]);
        assert_eq!(difference(&found, &wanted), (vec!["\"x\"".into()], vec!["\"a\"".into(), "\"b\"".into()]));
    }
}
