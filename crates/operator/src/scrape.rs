//! What is read at the time of a scrape and kept by nobody for it: certificates, queues, watches, the pace of vaults, the process.
//! Names and meanings are those of the table in `metrics`.

use std::fmt;
use std::sync::{Arc, Weak};

use keyvault_sync_api::KeyVaultCertificate;
use keyvault_sync_api::conditions::{self, READY};
use kube::ResourceExt;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;

use crate::certificate::status;
use crate::context::Context;
use crate::leader::Leadership;
use crate::metrics::{
    CERTIFICATE_EXPIRY, CERTIFICATE_PUSHED, CERTIFICATE_READY, CERTIFICATE_SUCCESS, CERTIFICATE_VERSIONS,
    CERTIFICATES_NOT_SHOWN, CLAIMS, Definition, LEADER, Labels, PROCESS_CPU, PROCESS_FDS, PROCESS_MAX_FDS,
    PROCESS_RESIDENT, PROCESS_START, PROCESS_THREADS, PROCESS_VIRTUAL, QUEUE_DEPTH, QUEUE_OLDEST,
    ROUNDS_OLDEST, ROUNDS_UNDER_WAY, VAULT_PAUSE_SECONDS, VAULT_TURNS_FREE, VAULT_WAITING, WATCH_AGE,
};
use crate::settings::Switch;
use crate::signs::Signs;

/// Certificates with series of their own, five each: more would weigh on the one who stores them. Those that expire first are shown.
const CERTIFICATES_MAX: usize = 5_000;
/// A claim of which nothing is known yet.
const PENDING: &str = "Pending";

/// The metrics of a running operator.
pub(crate) struct Scrape(Weak<Context>);

impl Scrape {
    /// The context has the metrics, which have this: it does not keep the context alive.
    pub(crate) fn of(context: &Arc<Context>) -> Box<Self> {
        Box::new(Self(Arc::downgrade(context)))
    }
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(context) = self.0.upgrade() else { return Ok(()) };
        let claims = context.world.claims.state();
        one(&mut encoder, &CLAIMS, count(claims.len()))?;
        let leads = context.lease.leads();
        let mut worked = claims;
        // Whoever stands by sees them too, and would show each twice.
        worked.retain(|claim| leads && context.world.is_ours(claim));
        certificates(&mut encoder, worked, &context)?;
        let loads = context.pace.loads();
        let of = |value: fn(&crate::pace::Load) -> f64| {
            loads.iter().map(move |load| ([load.host.as_str()], value(load)))
        };
        gauges(&mut encoder, &VAULT_TURNS_FREE, of(|load| count(load.free)))?;
        gauges(&mut encoder, &VAULT_WAITING, of(|load| count(load.waiting)))?;
        gauges(&mut encoder, &VAULT_PAUSE_SECONDS, of(|load| load.pause.as_secs_f64()))
    }
}

/// What a certificate's gauges are made of.
struct Shown<'a> {
    labels: [&'a str; 4],
    expiry: Option<i64>,
    success: Option<i64>,
    pushed: Option<i64>,
    is_ready: bool,
    reason: &'a str,
    versions: Option<i64>,
}

fn certificates(
    encoder: &mut DescriptorEncoder<'_>,
    mut claims: Vec<Arc<KeyVaultCertificate>>,
    context: &Context,
) -> fmt::Result {
    let shown_max = match context.settings.certificate_metrics {
        Switch::On => CERTIFICATES_MAX,
        Switch::Off => 0,
    };
    one(encoder, &CERTIFICATES_NOT_SHOWN, count(claims.len().saturating_sub(shown_max)))?;
    if claims.len() > shown_max {
        claims.sort_by_key(|claim| expiry(claim).unwrap_or(i64::MAX));
        claims.truncate(shown_max);
    }
    let success =
        |claim: &KeyVaultCertificate| context.world.rounds.succeeded(&claim.uid().unwrap_or_default());
    let shown: Vec<_> = claims.iter().map(|claim| Shown::of(claim, success(claim))).collect();
    let of = |value: fn(&Shown<'_>) -> Option<i64>| {
        shown.iter().filter_map(move |shown| Some((shown.labels, seconds(value(shown)?))))
    };
    gauges(encoder, &CERTIFICATE_EXPIRY, of(|shown| shown.expiry))?;
    gauges(encoder, &CERTIFICATE_SUCCESS, of(|shown| shown.success))?;
    gauges(encoder, &CERTIFICATE_PUSHED, of(|shown| shown.pushed))?;
    gauges(encoder, &CERTIFICATE_VERSIONS, of(|shown| shown.versions))?;
    let ready = shown.iter().map(|shown| {
        let [namespace, name, certificate, vault] = shown.labels;
        ([namespace, name, certificate, vault, shown.reason], f64::from(u8::from(shown.is_ready)))
    });
    gauges(encoder, &CERTIFICATE_READY, ready)
}

fn expiry(claim: &KeyVaultCertificate) -> Option<i64> {
    status::kept(claim)?.not_after.as_ref().map(|time| time.0.as_second())
}

impl<'a> Shown<'a> {
    /// `success`: since this process runs.
    fn of(claim: &'a KeyVaultCertificate, success: Option<i64>) -> Self {
        let status = status::kept(claim);
        let ready = status.and_then(|status| conditions::find(&status.conditions, READY));
        let is_ready = ready.is_some_and(|ready| ready.status == "True");
        let pushed = status.and_then(|status| status.pushed_at.as_ref()).map(|time| time.0.as_second());
        // Before this process has looked, what is written down counts.
        let since = ready.filter(|_| is_ready).map(|ready| ready.last_transition_time.0.as_second());
        Self {
            labels: [
                crate::owner::namespace(claim),
                &claim.spec.owner.name,
                &claim.spec.certificate_name,
                &claim.spec.vault_host,
            ],
            expiry: expiry(claim),
            success: success.max(pushed).max(since),
            pushed,
            is_ready,
            reason: ready.map_or(PENDING, |ready| &ready.reason),
            versions: status.and_then(|status| status.versions),
        }
    }
}

/// What can be read whether the operator works or not.
#[derive(Debug)]
pub(crate) struct Vitals {
    signs: Arc<Signs>,
    lease: Arc<Leadership>,
}

impl Vitals {
    /// From these signs of life, from the lease, which nobody holds before everything is known, and from the kernel.
    pub(crate) fn of(signs: &Arc<Signs>, lease: &Arc<Leadership>) -> Box<Self> {
        Box::new(Self { signs: Arc::clone(signs), lease: Arc::clone(lease) })
    }
}

impl Collector for Vitals {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        one(&mut encoder, &LEADER, f64::from(u8::from(self.lease.leads())))?;
        let ages = self.signs.watch_ages();
        gauges(&mut encoder, &WATCH_AGE, ages.iter().map(|(watch, age)| ([*watch], age.as_secs_f64())))?;
        let queues = self.signs.queue_states();
        let of = |value: fn(&crate::backlog::State) -> f64| {
            queues.iter().map(move |(controller, state)| ([*controller], value(state)))
        };
        gauges(&mut encoder, &QUEUE_DEPTH, of(|state| count(state.waiting)))?;
        gauges(&mut encoder, &QUEUE_OLDEST, of(|state| state.oldest.as_secs_f64()))?;
        gauges(&mut encoder, &ROUNDS_UNDER_WAY, of(|state| count(state.under_way)))?;
        gauges(&mut encoder, &ROUNDS_OLDEST, of(|state| state.longest.as_secs_f64()))?;
        // Without /proc there are no numbers, and no wrong ones.
        process(&mut encoder).unwrap_or(Ok(()))
    }
}

fn process(encoder: &mut DescriptorEncoder<'_>) -> procfs::ProcResult<fmt::Result> {
    let me = procfs::process::Process::myself()?;
    let (stat, limits, fds) = (me.stat()?, me.limits()?, me.fd_count()?);
    let ticks = procfs::ticks_per_second() as f64;
    let boot = procfs::boot_time_secs()? as f64;
    let max_fds = match limits.max_open_files.soft_limit {
        procfs::process::LimitValue::Value(max) => max as f64,
        procfs::process::LimitValue::Unlimited => f64::INFINITY,
    };
    let resident = (stat.rss * procfs::page_size()) as f64;
    let cpu = (stat.utime + stat.stime) as f64 / ticks;
    Ok((|| {
        counter(encoder, &PROCESS_CPU, cpu)?;
        one(encoder, &PROCESS_RESIDENT, resident)?;
        one(encoder, &PROCESS_VIRTUAL, stat.vsize as f64)?;
        one(encoder, &PROCESS_FDS, count(fds))?;
        one(encoder, &PROCESS_MAX_FDS, max_fds)?;
        one(encoder, &PROCESS_THREADS, stat.num_threads as f64)?;
        one(encoder, &PROCESS_START, boot + stat.starttime as f64 / ticks)
    })())
}

fn count(number: usize) -> f64 {
    number as f64
}

fn seconds(number: i64) -> f64 {
    number as f64
}

fn describe<'s, const N: usize>(
    encoder: &'s mut DescriptorEncoder<'_>,
    definition: &'s Definition<N>,
    kind: MetricType,
) -> Result<MetricEncoder<'s>, fmt::Error> {
    encoder.encode_descriptor(definition.bare_name(), definition.help, None, kind)
}

fn one(encoder: &mut DescriptorEncoder<'_>, definition: &Definition<0>, value: f64) -> fmt::Result {
    describe(encoder, definition, MetricType::Gauge)?.encode_gauge(&value)
}

fn counter(encoder: &mut DescriptorEncoder<'_>, definition: &Definition<0>, value: f64) -> fmt::Result {
    describe(encoder, definition, MetricType::Counter)?
        .encode_counter(&value, None::<&Exemplar<Labels<0>, f64>>)
}

fn gauges<'v, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    definition: &Definition<N>,
    values: impl Iterator<Item = ([&'v str; N], f64)>,
) -> fmt::Result {
    let mut metric = describe(encoder, definition, MetricType::Gauge)?;
    for (labels, value) in values {
        metric.encode_family(&definition.with(labels))?.encode_gauge(&value)?;
    }
    Ok(())
}
