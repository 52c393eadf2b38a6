//! `keyvault-sync plan`: what the operator would do, for what is in the cluster or for files that are not applied yet. It decides by the
//! operator's own code over a view, through which nothing can be written. What becomes of one claim is left to `forecast`.

mod answer;
mod forecast;
mod manifests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{anyhow, bail};
use clap::Args;
use futures::StreamExt;
use keyvault_sync_api::{KeyVaultCertificate, KeyVaultCertificateSpec};
use keyvault_sync_core::claims::{ClaimAct, HeldSource, ReleaseWhy};
use keyvault_sync_core::names::ClaimName;
use keyvault_sync_core::ownership::OwnerKind;
use keyvault_sync_core::push::OwnerState;
use kube::ResourceExt;

use super::cluster::{Cluster, Connection, Namespaces};
use super::operator::{Lookout, Operator};
use super::progress::Progress;
use super::{Form, Found, print, print_json};
use crate::certificate::observe;
use crate::context::View;
use crate::sync::resolve::written;
use crate::sync::{Deliberation, absence, apply, deliberate, orphan, succession};
use crate::wisher::{Wisher, WisherKey};
use crate::world::once::{Sight, Unapplied};
use answer::{Certificate, Ending, Plan, Resource};
use forecast::{Act, Forecast, Forecaster};

/// Certificates that are looked at at a time; each vault has its own bound.
const AT_A_TIME: usize = 16;

/// What is asked for.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// One resource, KIND/NAME: kvsync/web, ckvsync/all, keyvault/contoso (whatever goes through it) [default: every KeyVaultSync of
    /// the namespace]
    #[arg(value_name = "KIND/NAME", conflicts_with_all = ["file", "all_namespaces"])]
    resource: Option<String>,
    /// Resources in a file that need not be applied: YAML, several documents; - for the standard input
    #[arg(long, short, value_name = "FILE", conflicts_with = "all_namespaces")]
    file: Option<String>,
    /// Read no vault: go by what was recorded of it
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    namespaces: Namespaces,
    #[command(flatten)]
    cluster: Cluster,
    /// In which form
    #[arg(long, short, default_value = "text")]
    output: Form,
    #[command(flatten, next_help_heading = "As the operator, where its pod does not say it")]
    operator: Operator,
}

/// What is planned.
enum Wanted {
    /// These resources.
    These(BTreeSet<WisherKey>),
    /// Those through these KeyVaults, and these.
    Through(BTreeSet<String>, BTreeSet<WisherKey>),
    /// Those of a namespace.
    Of(String),
    /// All.
    All,
}

/// Tells what would happen.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<Found> {
    let connection = arguments.cluster.connect().await?;
    let (wanted, unapplied) = wanted(&arguments, &connection)?;
    manifests::check(&unapplied, &connection).await?;
    let sight = sight(&wanted, &unapplied);
    let files: BTreeSet<WisherKey> = keys(&unapplied).collect();
    let lookout = {
        let _progress = Progress::of("reading the cluster");
        arguments.operator.told(&connection).await?.look(&connection, sight, unapplied).await?
    };
    let chosen = choose(&wanted, &lookout.view, &connection)?;
    let plan = {
        let _progress = Progress::of("looking at the vaults");
        plan(lookout, chosen, &files, matches!(wanted, Wanted::All), arguments.offline).await
    };
    match arguments.output {
        Form::Json => print_json(&plan)?,
        Form::Text => print(&plan.text(super::table::width())),
    }
    Ok(if plan.refused == 0 { Found::Well } else { Found::Trouble })
}

fn wanted(arguments: &Arguments, connection: &Connection) -> anyhow::Result<(Wanted, Unapplied)> {
    if let Some(file) = &arguments.file {
        let unapplied = manifests::read(file, &arguments.namespaces.or_default(connection))?;
        let these = keys(&unapplied).collect();
        let vaults: BTreeSet<String> = unapplied.vaults.iter().map(|vault| vault.name_any()).collect();
        let wanted = if vaults.is_empty() { Wanted::These(these) } else { Wanted::Through(vaults, these) };
        return Ok((wanted, unapplied));
    }
    let wanted = match &arguments.resource {
        Some(resource) => named(resource, &arguments.namespaces.or_default(connection))?,
        None => arguments.namespaces.one(connection).map_or(Wanted::All, Wanted::Of),
    };
    Ok((wanted, Unapplied::default()))
}

/// By the names that kubectl takes for the kinds.
fn named(resource: &str, namespace: &str) -> anyhow::Result<Wanted> {
    let Some((kind, name)) = resource.split_once('/').filter(|(_, name)| !name.is_empty()) else {
        bail!("{resource:?} is not KIND/NAME: write kvsync/NAME, ckvsync/NAME or keyvault/NAME");
    };
    let key = |kind, namespace: &str| {
        Wanted::These(BTreeSet::from([WisherKey {
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }]))
    };
    let plain = kind.to_ascii_lowercase();
    Ok(match plain.strip_suffix(".keyvaultsync.io").unwrap_or(&plain) {
        "kvsync" | "keyvaultsync" | "keyvaultsyncs" => key(OwnerKind::KeyVaultSync, namespace),
        "ckvsync" | "clusterkeyvaultsync" | "clusterkeyvaultsyncs" => key(OwnerKind::ClusterKeyVaultSync, ""),
        "kvault" | "keyvault" | "keyvaults" => {
            Wanted::Through(BTreeSet::from([name.to_owned()]), BTreeSet::new())
        }
        _ => bail!(
            "there is nothing to plan for the kind {kind:?}: write kvsync/NAME, ckvsync/NAME or keyvault/NAME"
        ),
    })
}

fn keys(unapplied: &Unapplied) -> impl Iterator<Item = WisherKey> {
    let syncs = unapplied.syncs.iter().cloned().map(|sync| Wisher::Namespaced(Arc::new(sync)).key());
    let cluster = unapplied.cluster_syncs.iter().cloned().map(|sync| Wisher::Cluster(Arc::new(sync)).key());
    syncs.chain(cluster)
}

/// What has to be seen for that: who looks after one namespace need not be allowed to see the others.
fn sight(wanted: &Wanted, unapplied: &Unapplied) -> Sight {
    match wanted {
        Wanted::Of(namespace) => Sight::Namespaces(BTreeSet::from([namespace.clone()])),
        Wanted::These(keys)
            if unapplied.cluster_syncs.is_empty()
                && keys.iter().all(|key| key.kind == OwnerKind::KeyVaultSync) =>
        {
            Sight::Namespaces(keys.iter().map(|key| key.namespace.clone()).collect())
        }
        Wanted::These(_) | Wanted::Through(..) | Wanted::All => Sight::Cluster,
    }
}

/// The resources that are planned, those that were there first before the others, as the operator meets them.
fn choose(wanted: &Wanted, view: &View, connection: &Connection) -> anyhow::Result<Vec<Wisher>> {
    let is_wanted = |wisher: &Wisher| match wanted {
        Wanted::These(keys) => keys.contains(&wisher.key()),
        Wanted::Through(vaults, keys) => {
            vaults.contains(&wisher.push().vault_ref.name) || keys.contains(&wisher.key())
        }
        Wanted::Of(namespace) => wisher.namespace() == namespace,
        Wanted::All => true,
    };
    let mut chosen: Vec<Wisher> = view.world.wishers().filter(is_wanted).collect();
    chosen.sort_by_key(|wisher| (wisher.created().map(|time| time.0), wisher.key()));
    if let Wanted::These(keys) = wanted {
        for key in keys {
            if !chosen.iter().any(|wisher| wisher.key() == *key) {
                return Err(anyhow!(
                    "there is no {} {} in {}: plan a file with --file",
                    key.kind.as_str(),
                    place(&key.namespace, &key.name),
                    connection.url
                ));
            }
        }
    }
    if let Wanted::Through(vaults, _) = wanted {
        let is_there = |name: &str| view.world.vaults.state().iter().any(|vault| vault.name_any() == name);
        if let Some(missing) = vaults.iter().find(|name| !is_there(name)) {
            bail!("there is no KeyVault {missing} in {}: kubectl get keyvaults", connection.url);
        }
    }
    Ok(chosen)
}

/// `web/shop`, or the name alone.
fn place(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

async fn plan(
    mut lookout: Lookout,
    chosen: Vec<Wisher>,
    files: &BTreeSet<WisherKey>,
    with_orphans: bool,
    offline: bool,
) -> Plan {
    // Who waits for a name is known from every wish, not from those alone that are planned.
    for wisher in lookout.view.world.wishers().filter(|wisher| !wisher.is_going()) {
        let names = crate::sync::resolve::wish(&wisher, &lookout.view).wanted_names();
        lookout.view.world.note_wants(&wisher.key(), names);
    }
    let mut drafts = Vec::new();
    let (chosen, others): (Vec<_>, Vec<_>) =
        chosen.into_iter().partition(|wisher| lookout.view.world.selects(wisher));
    for wisher in chosen.into_iter().filter(|wisher| !wisher.is_going()) {
        drafts.push(draft(&mut lookout, &wisher, files.contains(&wisher.key())).await);
    }
    if with_orphans {
        drafts.extend(orphans(&lookout.view).await);
    }
    let forecaster = Forecaster::new(&lookout.view, offline);
    let claims = drafts.iter_mut().flat_map(|draft| std::mem::take(&mut draft.claims));
    let forecasts: BTreeMap<String, Forecast> = futures::stream::iter(claims)
        .map(|claim| async {
            let name = claim.name_any();
            (name, forecaster.of(claim).await)
        })
        .buffer_unordered(AT_A_TIME)
        .collect()
        .await;
    let resources = drafts.into_iter().map(|draft| draft.with(&forecasts)).collect();
    let called =
        |wisher: &Wisher| format!("{}/{}", wisher.kind().as_str(), place(wisher.namespace(), wisher.name()));
    let not_served = others.iter().map(called).collect();
    Plan { not_served, ..Plan::new(resources, forecaster.vaults()) }
}

/// One resource, planned but for what its vault says.
struct Draft {
    resource: Resource,
    /// The claims as they will be, each to be looked at.
    claims: Vec<Arc<KeyVaultCertificate>>,
}

impl Draft {
    fn with(mut self, forecasts: &BTreeMap<String, Forecast>) -> Resource {
        let rows = self.resource.certificates.iter_mut();
        for certificate in rows.filter(|certificate| certificate.forecast.act == Act::Unknown) {
            let forecast = certificate.claim.as_ref().and_then(|claim| forecasts.get(&claim.name));
            certificate.forecast = forecast.cloned().unwrap_or_else(Forecast::unknown);
        }
        for ending in self.resource.given_up.iter_mut().filter(|ending| ending.forecast.act == Act::Unknown) {
            let forecast = forecasts.get(&ending.claim);
            ending.forecast = forecast.cloned().unwrap_or_else(Forecast::unknown);
        }
        self.resource
    }
}

/// Plans one resource as its round does, and imagines its claims.
async fn draft(lookout: &mut Lookout, wisher: &Wisher, is_of_file: bool) -> Draft {
    let Deliberation { wish, held, plan } = deliberate(wisher, &lookout.view);
    let mut resource = Resource::of(wisher, &wish, is_of_file);
    let mut acts: BTreeMap<ClaimName, answer::ClaimAct> = BTreeMap::new();
    let mut claims = Vec::new();
    for act in plan.acts {
        let there = |name: &ClaimName| {
            let claim = lookout.view.world.claim(name.as_str());
            claim.map(|claim| KeyVaultCertificate::clone(&claim))
        };
        match act {
            ClaimAct::Create(name, wanted) => {
                let mut claim = KeyVaultCertificate::new(name.as_str(), written(wanted));
                claim.metadata.generation = Some(1);
                lookout.seen.imagine(claim);
                acts.insert(name, answer::ClaimAct::Create);
            }
            ClaimAct::Change(name, wanted) => {
                let Some(claim) = there(&name) else { continue };
                lookout.seen.imagine(edited(claim, |spec| *spec = written(wanted)));
                acts.insert(name, answer::ClaimAct::Change);
            }
            ClaimAct::Settle(name, spec) => {
                let Some(mut claim) = there(&name) else { continue };
                apply::settle(&mut claim, spec);
                lookout.seen.imagine(claim);
                acts.insert(name, answer::ClaimAct::Change);
            }
            ClaimAct::Release(name, why, confirm) => {
                let sources: &[HeldSource] = held.get(&name).map_or(&[], |claim| &claim.sources);
                let is_confirmed = absence::confirms(confirm, sources, &lookout.view).await;
                let Some(claim) = there(&name) else { continue };
                let (ending, released) = given_up(lookout, &name, claim, why, Some(wisher), is_confirmed);
                resource.given_up.push(ending);
                claims.extend(released);
            }
        }
    }
    for (row, outcome) in wish.rows.iter().zip(plan.rows) {
        let certificate = match outcome {
            Err(problem) => Certificate::refused(row, &wish, problem),
            Ok(name) => {
                let claim = lookout.view.world.claim(name.as_str());
                let is_first = claim.as_ref().is_some_and(|claim| {
                    observe::sources(claim).first().is_some_and(|first| {
                        first.namespace == row.source.secret.namespace && first.name == row.source.secret.name
                    })
                });
                let act = acts.get(&name).copied().unwrap_or(answer::ClaimAct::Keep);
                let forecast = if is_first { Forecast::unknown() } else { Forecast::copy(claim.as_deref()) };
                claims.extend(claim.filter(|_| is_first));
                Certificate::of(row, &wish, &name, act, forecast)
            }
        };
        resource.certificates.push(certificate);
    }
    let waiting = plan.lingering.iter().map(|(secret, name)| {
        let act = acts.get(name).copied().unwrap_or(answer::ClaimAct::Keep);
        Certificate::lingering(secret, name, act)
    });
    resource.certificates.extend(waiting);
    // What is being given up already, and is not taken back.
    for claim in lookout.view.world.claims_of(&wisher.key()) {
        let is_told = resource.given_up.iter().any(|ending| ending.claim == claim.name_any());
        if let Some(release) = claim.spec.release.as_ref().filter(|_| !is_told) {
            resource.given_up.push(Ending::begun(&claim, release.why));
            claims.push(settled_long_ago(KeyVaultCertificate::clone(&claim)));
        }
    }
    Draft { resource, claims }
}

/// A claim with another specification, as the API server keeps it.
fn edited(
    mut claim: KeyVaultCertificate,
    edit: impl FnOnce(&mut KeyVaultCertificateSpec),
) -> KeyVaultCertificate {
    let before = claim.spec.clone();
    edit(&mut claim.spec);
    let is_other = claim.spec != before;
    claim.metadata.generation = claim.metadata.generation.map(|generation| generation + i64::from(is_other));
    claim
}

/// What becomes of a claim that nobody of this resource wants any more.
fn given_up(
    lookout: &mut Lookout,
    name: &ClaimName,
    claim: KeyVaultCertificate,
    why: ReleaseWhy,
    wisher: Option<&Wisher>,
    is_confirmed: bool,
) -> (Ending, Option<Arc<KeyVaultCertificate>>) {
    if !is_confirmed {
        return (Ending::unconfirmed(&claim, why), None);
    }
    if let Some(heir) = succession::heir(name, &lookout.view) {
        let ending = Ending::handed_over(&claim, why, &heir);
        lookout.seen.imagine(edited(claim, |spec| *spec = heir));
        return (ending, None);
    }
    let released = edited(claim, |spec| succession::release(spec, why, wisher.map(Wisher::push)));
    let ending = Ending::released(&released, why);
    let released = settled_long_ago(released);
    lookout.seen.imagine(released.as_ref().clone());
    (ending, Some(released))
}

/// Given up long enough ago that what would be waited for is over: what comes then is told.
fn settled_long_ago(mut claim: KeyVaultCertificate) -> Arc<KeyVaultCertificate> {
    if let Some(release) = &mut claim.spec.release {
        release.since =
            keyvault_sync_api::conditions::whole_seconds(k8s_openapi::jiff::Timestamp::UNIX_EPOCH);
    }
    Arc::new(claim)
}

/// Claims whose owner is not there: given up, where the API server itself says that it is gone.
async fn orphans(view: &View) -> Vec<Draft> {
    let clouds = view.settings.allowed_clouds();
    let mut by_owner: BTreeMap<WisherKey, Draft> = BTreeMap::new();
    for claim in view.world.claims.state() {
        let owner = WisherKey::of(&claim);
        if view.world.wisher(&owner).is_some() || !view.world.is_ours(&claim) {
            continue;
        }
        let gone = || Draft { resource: Resource::gone(&owner), claims: Vec::new() };
        let draft = by_owner.entry(owner.clone()).or_insert_with(gone);
        if let Some(release) = &claim.spec.release {
            draft.resource.given_up.push(Ending::begun(&claim, release.why));
            draft.claims.push(settled_long_ago(KeyVaultCertificate::clone(&claim)));
            continue;
        }
        let name = crate::owner::claim_name(&claim, &clouds);
        let state = match &name {
            Some(name) => {
                let made = claim.creation_timestamp();
                orphan::state(owner.kind, &owner.namespace, &owner.name, name, made.as_ref(), view).await
            }
            None => OwnerState::Unclear,
        };
        if state != OwnerState::Gone {
            draft.resource.given_up.push(Ending::unconfirmed(&claim, ReleaseWhy::OwnerGone));
            continue;
        }
        let released = edited(KeyVaultCertificate::clone(&claim), |spec| {
            succession::release(spec, ReleaseWhy::OwnerGone, None);
        });
        draft.resource.given_up.push(Ending::released(&released, ReleaseWhy::OwnerGone));
        draft.claims.push(settled_long_ago(released));
    }
    by_owner.into_values().collect()
}
