//! A resource → its wish: for each Secret the certificate name and the claim it wants, or why it may not have one.
//! Who gets which name is left to `keyvault_sync_core::claims`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use keyvault_sync_api::{CertificateEntry, ClaimSource, KeyVaultCertificateSpec, SecretKeys, limits};
use keyvault_sync_core::claims::{ClaimOwner, Row, SecretName, Source, Terms, Wanted};
use keyvault_sync_core::names::{CertificateName, ClaimName, NameTemplate, TemplateInput};
use keyvault_sync_core::ownership::{OwnerKind, user_tags};
use keyvault_sync_core::reason::Problem;
use keyvault_sync_core::selection::{NamespaceSelection, SecretLook, SecretSelection};
use kube::ResourceExt;

use crate::certificate::now;
use crate::certificate::observe::{check_grant, vault};
use crate::context::View;
use crate::keyvault::Vault;
use crate::wisher::Wisher;
use crate::world::{SecretMeta, sync_at};

/// A resource, resolved as far as it goes.
pub(crate) struct Wish {
    /// Whose it is.
    pub owner: ClaimOwner,
    /// The vault, or why there is none.
    pub vault: Result<Vault, Problem>,
    /// What makes the whole wish impossible, if something does.
    pub(crate) whole: Result<(), Problem>,
    /// The Secrets it selects beside those it lists.
    pub selection: Option<SecretSelection>,
    /// The namespaces it selects them in.
    pub namespaces: NamespaceSelection,
    /// One for each Secret, in the order in which they come first to a name. The specifications have no sources yet.
    pub rows: Vec<Row<KeyVaultCertificateSpec>>,
    /// Whether claims that no row wants may be given up: only a wish that resolves can release a claim.
    pub may_release: bool,
}

impl Wish {
    /// The names of the claims that its rows want and may have.
    pub(crate) fn wanted_names(&self) -> HashSet<String> {
        let rows = self.rows.iter().filter(|row| row.wanted.is_ok());
        rows.filter_map(|row| row.name.as_ref()).map(|(_, name)| name.as_str().to_owned()).collect()
    }

    /// What of it bears on giving up claims.
    pub(crate) fn terms(&self, wisher: &Wisher) -> Terms {
        let push = wisher.push();
        Terms {
            may_release: self.may_release,
            deletes: push.deletion_policy == keyvault_sync_api::DeletionPolicy::Delete,
            grace_secs: i64::try_from(push.deletion_grace_period.as_secs()).unwrap_or(i64::MAX),
            sources_max: SOURCES_MAX,
            now: now(),
        }
    }
}

/// Secrets of one claim.
pub(crate) const SOURCES_MAX: usize = limits::SOURCES_MAX as usize;

/// Resolves a resource.
pub(crate) fn wish(wisher: &Wisher, context: &View) -> Wish {
    let owner = wisher.owner();
    let template = NameTemplate::parse(wisher.template());
    let vault = vault(&wisher.push().vault_ref.name, context).and_then(|vault| match wisher.kind() {
        OwnerKind::KeyVaultSync => Ok(vault),
        OwnerKind::ClusterKeyVaultSync => vault.for_cluster().map(|_| vault),
    });
    let selection = wisher.selection();
    let namespaces = wisher.namespace_selection();
    let common = vault.as_ref().map(|vault| common(wisher, &owner, vault, context)).map_err(Clone::clone);
    let resolving = Resolving { wisher, owner: &owner, template: &template, vault: &vault, common, context };
    let listed = wisher.entries().iter().map(|entry| resolving.listed(entry));
    let selected = selected(wisher, selection.as_ref(), &namespaces, context);
    let rows = listed.chain(selected.iter().map(|secret| resolving.selected(secret))).collect();
    let whole = vault.as_ref().map(|_| ()).and(template.as_ref().map(|_| ())).map_err(Clone::clone);
    let may_release = whole.is_ok() && !wisher.push().suspend;
    Wish { owner, vault, whole, selection, namespaces, rows, may_release }
}

/// The Secrets that the selector chooses and no entry lists, older ones first.
fn selected(
    wisher: &Wisher,
    selection: Option<&SecretSelection>,
    namespaces: &NamespaceSelection,
    context: &View,
) -> Vec<Arc<SecretMeta>> {
    let Some(selection) = selection else { return Vec::new() };
    let listed: HashSet<&str> = wisher.entries().iter().map(|entry| entry.secret_name.as_str()).collect();
    let candidates = match wisher.kind() {
        OwnerKind::KeyVaultSync => context.world.tls_secrets_in(wisher.namespace()),
        OwnerKind::ClusterKeyVaultSync => context.world.tls_secrets.state(),
    };
    let mut are_meant: HashMap<String, bool> = HashMap::new();
    let mut selected: Vec<_> = candidates
        .into_iter()
        .filter(|secret| {
            let name = secret.metadata.name.as_deref().unwrap_or_default();
            let look = SecretLook { name, labels: secret.labels(), annotations: secret.annotations() };
            !listed.contains(name) && selection.matches(&look)
        })
        .filter(|secret| {
            *are_meant.entry(secret.namespace().unwrap_or_default()).or_insert_with_key(|namespace| {
                let meta = context.world.namespace(namespace);
                namespaces.matches(namespace, meta.as_ref().map(|meta| meta.labels()))
            })
        })
        .collect();
    selected.sort_by(|one, other| {
        let key = |secret: &SecretMeta| secret.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let place = |secret: &SecretMeta| (secret.metadata.namespace.clone(), secret.metadata.name.clone());
        key(one).cmp(&key(other)).then_with(|| place(one).cmp(&place(other)))
    });
    selected
}

/// What the rows of one wish have in common.
struct Resolving<'a> {
    wisher: &'a Wisher,
    owner: &'a ClaimOwner,
    template: &'a Result<NameTemplate, Problem>,
    vault: &'a Result<Vault, Problem>,
    /// What every claim of the wish says.
    common: Result<KeyVaultCertificateSpec, Problem>,
    context: &'a View,
}

impl Resolving<'_> {
    fn listed(&self, entry: &CertificateEntry) -> Row<KeyVaultCertificateSpec> {
        let secret = SecretName { namespace: self.owner.namespace.clone(), name: entry.secret_name.clone() };
        let name = match &entry.certificate_name {
            Some(name) => CertificateName::parse(name),
            None => {
                let meta = self.context.world.secret(&secret.namespace, &secret.name);
                self.render(&secret, meta.as_deref())
            }
        };
        self.row(Source { secret, keys: keys(&entry.keys) }, name, Some(entry))
    }

    fn selected(&self, meta: &SecretMeta) -> Row<KeyVaultCertificateSpec> {
        let secret = SecretName {
            namespace: meta.metadata.namespace.clone().unwrap_or_default(),
            name: meta.metadata.name.clone().unwrap_or_default(),
        };
        let name = self.render(&secret, Some(meta));
        self.row(Source { secret, keys: keys(&SecretKeys::default()) }, name, None)
    }

    fn render(&self, secret: &SecretName, meta: Option<&SecretMeta>) -> Result<CertificateName, Problem> {
        self.template.as_ref().map_err(Clone::clone)?.render(&TemplateInput {
            namespace: &secret.namespace,
            secret: &secret.name,
            sync: &self.owner.name,
            labels: meta.map(|meta| meta.labels()),
            annotations: meta.map(|meta| meta.annotations()),
        })
    }

    fn row(
        &self,
        source: Source,
        name: Result<CertificateName, Problem>,
        entry: Option<&CertificateEntry>,
    ) -> Row<KeyVaultCertificateSpec> {
        let wanted = self.spec(&source.secret.namespace, &name, entry);
        let named = self.vault.as_ref().ok().zip(name.ok());
        let name = named.map(|(vault, name)| {
            let claim = ClaimName::new(&name, &vault.host);
            (name, claim)
        });
        Row { source, is_listed: entry.is_some(), name, wanted }
    }

    fn spec(
        &self,
        namespace: &str,
        name: &Result<CertificateName, Problem>,
        entry: Option<&CertificateEntry>,
    ) -> Result<KeyVaultCertificateSpec, Problem> {
        let vault = self.vault.as_ref().map_err(Clone::clone)?;
        let name = name.as_ref().map_err(Clone::clone)?;
        let none = std::collections::BTreeMap::new();
        let tags = user_tags(&self.wisher.push().tags, entry.map_or(&none, |entry| &entry.tags))?;
        check_grant(vault, namespace, name, self.context)?;
        let common = self.common.clone()?;
        Ok(KeyVaultCertificateSpec { certificate_name: name.as_str().to_owned(), tags, ..common })
    }
}

fn common(wisher: &Wisher, owner: &ClaimOwner, vault: &Vault, context: &View) -> KeyVaultCertificateSpec {
    let push = wisher.push();
    KeyVaultCertificateSpec {
        vault_host: vault.host.as_str().to_owned(),
        key_vault: vault.name.clone(),
        certificate_name: String::new(),
        cluster_id: context.cluster.as_str().to_owned(),
        owner: crate::owner::written(owner),
        sources: Vec::new(),
        exportable: push.exportable,
        tags: std::collections::BTreeMap::new(),
        conflict_policy: push.conflict_policy,
        adopt_from_clusters: push.adopt_from_clusters.clone(),
        deletion_policy: push.deletion_policy,
        deletion_grace_period: push.deletion_grace_period,
        suspend: push.suspend,
        sync_at: compare_at(wisher, &vault.name, context),
        release: None,
    }
}

/// What a claim that waits for its Secret is to say now: whose it is, and how it ends.
pub(crate) fn settled(
    wisher: &Wisher,
    owner: &ClaimOwner,
    spec: &KeyVaultCertificateSpec,
) -> KeyVaultCertificateSpec {
    let push = wisher.push();
    KeyVaultCertificateSpec {
        owner: crate::owner::written(owner),
        deletion_policy: push.deletion_policy,
        deletion_grace_period: push.deletion_grace_period,
        suspend: push.suspend,
        ..spec.clone()
    }
}

/// What is wanted, as a claim says it.
pub(crate) fn written(wanted: Wanted<KeyVaultCertificateSpec>) -> KeyVaultCertificateSpec {
    let sources =
        wanted.sources.into_iter().map(|Source { secret, keys: [certificate, private_key] }| ClaimSource {
            namespace: secret.namespace,
            secret_name: secret.name,
            keys: SecretKeys { certificate, private_key },
        });
    KeyVaultCertificateSpec { sources: sources.collect(), ..wanted.spec }
}

/// A source as a claim has it written.
pub(crate) fn source(written: &ClaimSource) -> Source {
    let secret = SecretName { namespace: written.namespace.clone(), name: written.secret_name.clone() };
    Source { secret, keys: keys(&written.keys) }
}

fn keys(keys: &SecretKeys) -> [String; 2] {
    [keys.certificate.clone(), keys.private_key.clone()]
}

/// The annotations that ask for a comparison now, of the resource and of its KeyVault: a change of either changes this.
fn compare_at(wisher: &Wisher, vault: &str, context: &View) -> Option<String> {
    let key_vault = context.world.vaults.get(&kube::runtime::reflector::ObjectRef::new(vault));
    let asked = [wisher.sync_at().cloned(), key_vault.and_then(|vault| sync_at(vault.as_ref()).cloned())];
    let asked: Vec<String> = asked.into_iter().flatten().collect();
    (!asked.is_empty()).then(|| limits::cut(&asked.join(" "), limits::SYNC_AT_LENGTH_MAX))
}
