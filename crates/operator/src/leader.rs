//! Whether this process leads: the installation's Lease, taken, renewed and given back. What to do about it is `core::lease`'s
//! word; what only a leader does is left to those who ask here.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use keyvault_sync_core::lease::{Candidacy, Holder, Next, Record};
use keyvault_sync_vault::Fence;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::installation::Installation;
use crate::kubernetes::{CallError, call_within};
use crate::watch::describe;

/// A lease is renewed six times before it ends: every 5 s of 30 s.
const RENEWALS: u32 = 6;
/// How often a standby looks, and how soon after a failure it is tried again: a lease given back is taken within a second or two.
const LOOK: Duration = Duration::from_secs(1);
/// How soon after losing a race the Lease is looked at: at once, but never in a circle.
const RACE_PAUSE: Duration = Duration::from_millis(100);
/// One call about the Lease. One that hangs must not use up the lease.
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// How this process stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nothing is known yet, or the API server does not answer.
    Unknown,
    /// Another leads: who. This one stands by.
    Standby(String),
    /// This process leads.
    Leading,
    /// Another leads, and this process did before. It has to end.
    Lost,
}

/// Whether this process leads, for everybody who asks.
#[derive(Debug)]
pub(crate) struct Leadership {
    /// Until when, milliseconds since the machine's start; 0: it does not.
    valid_until: AtomicU64,
    standing: watch::Sender<Standing>,
}

impl Leadership {
    /// Nobody leads; without a [`Campaign`] nobody ever will.
    pub(crate) fn nobody() -> Self {
        Self { valid_until: AtomicU64::new(0), standing: watch::Sender::new(Standing::Unknown) }
    }

    /// Whether this process leads now.
    pub(crate) fn leads(&self) -> bool {
        self.outlives(Duration::ZERO)
    }

    /// Whether it will still lead after so long, if nothing is renewed.
    pub(crate) fn outlives(&self, length: Duration) -> bool {
        since_start() + length < Duration::from_millis(self.valid_until.load(Ordering::SeqCst))
    }

    /// How it stands.
    pub(crate) fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    /// Waits until it leads (`true`) or has lost (`false`).
    pub(crate) async fn decided(&self) -> bool {
        let mut standing = self.standing.subscribe();
        let decided =
            standing.wait_for(|standing| matches!(standing, Standing::Leading | Standing::Lost)).await;
        decided.is_ok_and(|standing| *standing == Standing::Leading)
    }

    /// Waits until the lead is lost.
    pub(crate) async fn lost(&self) {
        let mut standing = self.standing.subscribe();
        if standing.wait_for(|standing| *standing == Standing::Lost).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    fn note(&self, candidacy: &Candidacy) {
        let until = candidacy.valid_until().map_or(0, |until| u64::try_from(until.as_millis()).unwrap_or(0));
        self.valid_until.store(until, Ordering::SeqCst);
    }

    fn stand(&self, standing: Standing) {
        self.standing.send_if_modified(|before| {
            let is_other = *before != standing;
            if is_other {
                match &standing {
                    Standing::Unknown => {}
                    Standing::Standby(leader) => {
                        tracing::info!(leader, "standing by: another process leads")
                    }
                    Standing::Leading => tracing::info!("leading"),
                    Standing::Lost => tracing::error!("the lead is lost to another process"),
                }
                *before = standing;
            }
            is_other
        });
    }
}

/// No write to a vault is begun that the lease does not outlive.
impl Fence for Leadership {
    fn lets_write(&self, longest: Duration) -> bool {
        self.outlives(longest)
    }
}

/// By the clock that goes on while the machine sleeps: a lease does, too.
fn since_start() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// The efforts of this process to lead.
pub(crate) struct Campaign {
    api: Api<Lease>,
    name: String,
    me: Holder,
    lasts: Duration,
    candidacy: Candidacy,
    /// The Lease as it was read or written last; `None`: it has to be read.
    known: Option<Lease>,
    /// Whether the last call failed, so that a row of failures is told once.
    is_failing: bool,
    /// Whether the lease ran out with nobody taking it, so that it is told once.
    is_paused: bool,
}

impl Campaign {
    /// For the Lease of this installation. A pod, by its uid, runs one process at a time; without one nothing is known of others.
    pub(crate) fn new(
        client: Client,
        installation: &Installation,
        (pod, uid): (&str, Option<&str>),
        lasts: Duration,
    ) -> Self {
        let mut dice = [0_u8; 8];
        // Without randomness the time tells processes apart; those of one pod come one after the other anyway.
        if getrandom::fill(&mut dice).is_err() {
            dice = since_start().as_nanos().to_le_bytes()[..8].try_into().unwrap_or_default();
        }
        let process = format!("{:016x}", u64::from_le_bytes(dice));
        let me = Holder { instance: format!("{pod}_{}", uid.unwrap_or(&process)), process };
        Self {
            api: Api::namespaced(client, installation.namespace()),
            name: installation.name().to_owned(),
            candidacy: Candidacy::new(me.clone(), lasts),
            me,
            lasts,
            known: None,
            is_failing: false,
            is_paused: false,
        }
    }

    /// Takes, keeps and renews the lease until `over`; then gives it back. Ends early if it is lost.
    pub(crate) async fn run(mut self, leadership: &Leadership, over: CancellationToken) {
        let _watch = Watch { leadership, over: over.clone() };
        loop {
            let pause = match self.round(leadership).await {
                Ok(pause) => pause,
                Err(error) => {
                    self.failed(&error);
                    LOOK
                }
            };
            let standing = match self.candidacy.valid_until() {
                _ if leadership.standing() == Standing::Lost => return,
                Some(_) => Standing::Leading,
                None => match self.candidacy.holder() {
                    Some(leader) if *leader != self.me => Standing::Standby(leader.instance.clone()),
                    _ => Standing::Unknown,
                },
            };
            leadership.stand(standing);
            self.tell_pause(leadership);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = over.cancelled() => break,
            }
        }
        self.give_back(leadership).await;
    }

    /// The lease may run out because the API server does not answer, and then nobody else can take it either.
    fn tell_pause(&mut self, leadership: &Leadership) {
        let is_paused = self.candidacy.valid_until().is_some() && !leadership.leads();
        if is_paused != self.is_paused {
            self.is_paused = is_paused;
            if is_paused {
                tracing::warn!(
                    lease = self.name,
                    "the lease has run out: nothing is begun until it is renewed"
                );
            } else if leadership.leads() {
                tracing::info!(lease = self.name, "the lease is renewed: the work goes on");
            }
        }
    }

    /// One look and what follows from it. When to look again.
    async fn round(&mut self, leadership: &Leadership) -> Result<Duration, CallError> {
        if self.known.is_none() {
            match call_within(CALL_LIMIT, "the Lease", self.api.get(&self.name)).await {
                Ok(lease) => self.known = Some(lease),
                Err(error) if error.says_missing(&self.name) => {}
                Err(error) => return Err(error),
            }
        }
        let found = self.known.as_ref().map(record);
        match self.candidacy.next(found.as_ref(), since_start()) {
            Next::Wait => {
                leadership.note(&self.candidacy);
                self.known = None;
                self.is_failing = false;
                Ok(LOOK)
            }
            Next::Lost => {
                leadership.note(&self.candidacy);
                leadership.stand(Standing::Lost);
                Ok(LOOK)
            }
            Next::Create | Next::Write => {
                let sent = since_start();
                let wanted = self.lease(Some(&self.me));
                // Until its answer is known the Lease is not.
                let known = self.known.take();
                let was_there = known.is_some();
                let params = PostParams::default();
                let written = match known {
                    None => call_within(CALL_LIMIT, "the Lease", self.api.create(&params, &wanted)).await,
                    Some(_) => {
                        call_within(CALL_LIMIT, "the Lease", self.api.replace(&self.name, &params, &wanted))
                            .await
                    }
                };
                match written {
                    Ok(lease) => {
                        self.candidacy.written(record(&lease), sent);
                        leadership.note(&self.candidacy);
                        self.known = Some(lease);
                        if std::mem::take(&mut self.is_failing) {
                            tracing::info!(lease = self.name, "the Lease is renewed again");
                        }
                        Ok(self.lasts / RENEWALS)
                    }
                    // Somebody was faster, or an answer of ours was lost: what it says now decides.
                    Err(error) if error.is_conflict() || (was_there && error.is_race()) => Ok(RACE_PAUSE),
                    Err(error) => Err(error),
                }
            }
        }
    }

    /// What is to be written: ours, or nobody's.
    fn lease(&self, holder: Option<&Holder>) -> Lease {
        let now = MicroTime(Timestamp::now());
        let before = self.known.as_ref();
        let spec = before.and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let is_ours = spec.holder_identity == Some(self.me.to_string());
        let is_other = holder.is_some() && !is_ours;
        let metadata = before.map_or_else(
            || ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
            |lease| ObjectMeta { managed_fields: None, ..lease.metadata.clone() },
        );
        let transitions = spec.lease_transitions.unwrap_or(0);
        let spec = LeaseSpec {
            holder_identity: holder.map(Holder::to_string),
            lease_duration_seconds: i32::try_from(self.lasts.as_secs()).ok(),
            acquire_time: if is_other { Some(now.clone()) } else { spec.acquire_time },
            renew_time: Some(now),
            lease_transitions: Some(if is_other && before.is_some() {
                transitions.saturating_add(1)
            } else {
                transitions
            }),
            ..LeaseSpec::default()
        };
        Lease { metadata, spec: Some(spec) }
    }

    /// Whoever stands by need not wait for the lease to end. Only after everything in hand is finished.
    async fn give_back(&mut self, leadership: &Leadership) {
        let is_held = self.candidacy.valid_until().is_some();
        self.candidacy.give_back();
        leadership.note(&self.candidacy);
        if !is_held {
            return;
        }
        if self.known.is_none() {
            // The answer to the last renewal is missing.
            self.known = call_within(CALL_LIMIT, "the Lease", self.api.get(&self.name)).await.ok();
        }
        let is_ours = |lease: &Lease| record(lease).holder.as_ref() == Some(&self.me);
        if !self.known.as_ref().is_some_and(is_ours) {
            return;
        }
        let free = self.lease(None);
        let params = PostParams::default();
        match call_within(CALL_LIMIT, "the Lease", self.api.replace(&self.name, &params, &free)).await {
            Ok(_) => tracing::info!("the lease is given back"),
            Err(error) => {
                tracing::warn!(error = %describe(&error), "the lease could not be given back: it ends by itself");
            }
        }
    }

    fn failed(&mut self, error: &CallError) {
        let namespace = self.api.namespace().unwrap_or_default();
        let lease = format!("{namespace}/{}", self.name);
        if self.is_failing {
            tracing::debug!(lease, error = %describe(error), "the Lease cannot be read or written");
            return;
        }
        self.is_failing = true;
        if error.status().is_some_and(|status| status.code == 403) {
            tracing::error!(
                lease,
                error = %describe(error),
                "the operator may not use its Lease: install its RBAC again, or correct --installation (namespace, dot, release)"
            );
        } else {
            tracing::warn!(lease, error = %describe(error), "the Lease cannot be read or written: tried again every second");
        }
    }
}

/// However the campaign ends before its time, nobody goes on without one.
struct Watch<'a> {
    leadership: &'a Leadership,
    over: CancellationToken,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if !self.over.is_cancelled() {
            self.leadership.valid_until.store(0, Ordering::SeqCst);
            self.leadership.stand(Standing::Lost);
        }
    }
}

/// What a Lease says.
pub(crate) fn record(lease: &Lease) -> Record {
    let spec = lease.spec.as_ref();
    let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).filter(|holder| !holder.is_empty());
    let lasts = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or(0);
    let renewed = spec.and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0.to_string());
    Record {
        holder: holder.map(Holder::parse),
        renewed: renewed.unwrap_or_default(),
        lasts: Duration::from_secs(u64::try_from(lasts).unwrap_or(0)),
    }
}
