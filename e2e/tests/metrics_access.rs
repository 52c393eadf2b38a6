//! Metrics over HTTPS: who gets them, and what certificate they are shown. One after the other: the first begins without the rights that
//! the others give the operator, one freezes the API server, and each has operators of its own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use keyvault_sync_api::rbac;
use keyvault_sync_e2e::Scene;
use keyvault_sync_e2e::certificates::{Issued, Leaf};
use keyvault_sync_e2e::operator::Operator;
use keyvault_sync_e2e::stage::{OPERATOR, Pod, SECOND_CLIENT};
use keyvault_sync_e2e::wait::{self, Seen};
use reqwest::tls::{Certificate, TlsInfo};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

keyvault_sync_e2e::promises!(OneByOne:
    metrics_are_for_tokens_that_may_get_them_and_nowhere_else,
    a_right_that_is_taken_away_counts_soon,
    whoever_the_api_server_is_not_asked_about_gets_nothing_until_it_answers,
    a_renewed_certificate_is_shown_and_rubbish_is_not,
    connections_without_a_word_hold_up_nothing_and_are_closed,
);

/// Port of its own, which its log tells.
const ADDRESS: &str = "--metrics-address=127.0.0.1:0";
/// The name in the certificate of files.
const NAME: &str = "metrics.example.com";
/// Only a failure takes as long: the operator asks two things of the API server, five seconds each.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
/// Any metric.
const METRIC: &str = "keyvault_sync_build_info";

/// Metrics as one who scrapes sees them.
struct Scraper {
    client: reqwest::Client,
    url: String,
}

/// What was answered.
#[derive(Debug)]
struct Answer {
    status: u16,
    challenge: bool,
    body: String,
    /// The certificate that was shown, DER.
    certificate: Vec<u8>,
}

impl Scraper {
    /// Takes any certificate.
    async fn of(operator: &Operator) -> anyhow::Result<Self> {
        Self::with(operator, builder().tls_danger_accept_invalid_certs(true)).await
    }

    /// Takes those for `NAME` that this root vouches for.
    async fn that_trusts(operator: &Operator, root: &str) -> anyhow::Result<Self> {
        Self::with(operator, builder().tls_certs_only([Certificate::from_pem(root.as_bytes())?])).await
    }

    async fn with(operator: &Operator, client: reqwest::ClientBuilder) -> anyhow::Result<Self> {
        let address = wait::until("the operator to say where metrics are served", || async {
            Ok(metrics_address(&operator.log())
                .map_or_else(|| Seen::NotYet("no such line in its log".to_owned()), Seen::Done))
        })
        .await?;
        let client = client.resolve(NAME, address).build()?;
        Ok(Self { client, url: format!("https://{NAME}:{}/metrics", address.port()) })
    }

    async fn get(&self, token: Option<&str>) -> anyhow::Result<Answer> {
        let request = self.client.get(&self.url);
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let answer = request.send().await?;
        let shown = answer.extensions().get::<TlsInfo>().and_then(TlsInfo::peer_certificate);
        Ok(Answer {
            certificate: shown.context("no certificate")?.to_vec(),
            status: answer.status().as_u16(),
            challenge: answer.headers().contains_key("www-authenticate"),
            body: answer.text().await?,
        })
    }

    async fn until(&self, token: &str, status: u16) -> anyhow::Result<Answer> {
        wait::until(&format!("{status} for a token"), || async {
            let answer = self.get(Some(token)).await?;
            Ok(if answer.status == status { Seen::Done(answer) } else { Seen::NotYet(format!("{answer:?}")) })
        })
        .await
    }

    async fn until_shown(&self, issued: &Issued) -> anyhow::Result<()> {
        let expected = der(issued)?;
        wait::until("the certificate of the files to be shown", || async {
            let is_it = self.get(None).await?.certificate == expected;
            Ok(if is_it { Seen::Done(()) } else { Seen::NotYet("another one".to_owned()) })
        })
        .await
    }
}

fn builder() -> reqwest::ClientBuilder {
    // A connection kept would show the certificate of its beginning.
    reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).timeout(REQUEST_LIMIT).tls_info(true)
}

fn metrics_address(log: &str) -> Option<SocketAddr> {
    let line = log.lines().find(|line| line.contains("serving /metrics over HTTPS"))?;
    serde_json::from_str::<Value>(line).ok()?["address"].as_str()?.parse().ok()
}

fn der(issued: &Issued) -> anyhow::Result<Vec<u8>> {
    let der = CertificateDer::from_pem_slice(issued.certificate.as_bytes());
    Ok(der.map_err(|error| anyhow::anyhow!("no certificate: {error}"))?.to_vec())
}

/// A role of these rules, and a ServiceAccount bound to it.
async fn grant(scene: &Scene, namespace: &str, account: &str, rules: Value) -> anyhow::Result<()> {
    let name = format!("metrics-{namespace}-{account}");
    let metadata = json!({"name": name});
    let group = "rbac.authorization.k8s.io";
    let documents = [
        json!({
            "apiVersion": format!("{group}/v1"), "kind": "ClusterRole", "metadata": metadata, "rules": rules,
        }),
        json!({
            "apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding", "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "ServiceAccount", "namespace": namespace, "name": account}],
        }),
    ];
    scene.stage().cluster.apply(&documents.map(|document| document.to_string()).join("\n---\n")).await
}

/// What the chart gives the operator with `metrics.auth.enabled`.
async fn let_it_judge(scene: &Scene) -> anyhow::Result<()> {
    grant(scene, OPERATOR, OPERATOR, serde_json::to_value(rbac::metrics_review_rules())?).await
}

/// A ServiceAccount of the test's namespace, and a token of it.
async fn account(scene: &Scene, name: &str) -> anyhow::Result<String> {
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": scene.name(), "name": name},
    });
    scene.stage().cluster.apply(&account.to_string()).await?;
    scene.stage().cluster.token(scene.name(), name, &[], 3600).await
}

/// One that may read metrics.
async fn reader(scene: &Scene, name: &str) -> anyhow::Result<String> {
    grant(scene, scene.name(), name, serde_json::to_value(rbac::metrics_reader_rules())?).await?;
    account(scene, name).await
}

async fn metrics_are_for_tokens_that_may_get_them_and_nowhere_else(scene: Scene) -> anyhow::Result<()> {
    let stage = scene.stage();
    let operator = stage.operator_with(&[ADDRESS]).await?;
    let scraper = Scraper::of(&operator).await?;
    let (prometheus, stranger) = (reader(&scene, "prometheus").await?, account(&scene, "stranger").await?);

    // First of all it may not ask who somebody is: nobody gets anything, and the log says why.
    let answer = scraper.get(Some(&prometheus)).await?;
    ensure!(answer.status == 503 && answer.body.contains("cannot be asked"), "{answer:?}");
    let warnings = |log: &str| log.lines().filter(|line| line.contains("install its RBAC")).count();
    ensure!(scraper.get(Some(&stranger)).await?.status == 503);
    ensure!(warnings(&operator.log()) == 1, "{}", operator.log());
    let_it_judge(&scene).await?;
    let answer = scraper.until(&prometheus, 200).await?;
    ensure!(answer.body.contains(METRIC) && answer.body.ends_with("# EOF\n"), "{answer:?}");
    // Made at the start, for the pod.
    let shows = |name: &str| answer.certificate.windows(name.len()).any(|part| part == name.as_bytes());
    ensure!(shows("keyvault-sync-0") && shows("localhost"));

    let of_azure =
        stage.cluster.token(scene.name(), "prometheus", &["api://AzureADTokenExchange"], 3600).await?;
    let forged = format!("{prometheus}x");
    for token in [None, Some(""), Some("garbage"), Some(&forged), Some(&of_azure)] {
        let answer = scraper.get(token).await?;
        ensure!(answer.status == 401 && answer.challenge && !answer.body.contains(METRIC), "{answer:?}");
    }
    let answer = scraper.until(&stranger, 403).await?;
    let user = format!("system:serviceaccount:{}:stranger", scene.name());
    ensure!(answer.body.contains(&user) && !answer.body.contains(METRIC), "{answer:?}");

    // Nothing of them is served where the probes are.
    let elsewhere = format!("{:#}", operator.metrics().await.err().context("metrics over plain HTTP")?);
    ensure!(elsewhere.contains("404") && elsewhere.contains("over HTTPS"), "{elsewhere}");
    ensure!(operator.livez().await? == (200, "ok".into()) && operator.readyz().await?.0 == 200);

    // A replica that stands by serves its own.
    let pod = Pod { name: "keyvault-sync-1", client: SECOND_CLIENT, api_server: None };
    stage.trust(SECOND_CLIENT);
    let standby = stage.pod(&pod, &[ADDRESS]).await?;
    let answer = Scraper::of(&standby).await?.get(Some(&prometheus)).await?;
    ensure!(answer.status == 200 && answer.body.contains("keyvault_sync_leader 0"), "{answer:?}");
    standby.terminate().await?;

    for token in [&prometheus, &stranger, &of_azure, &forged] {
        ensure!(!operator.log().contains(token.as_str()), "a token is in the log");
    }
    operator.terminate().await.map(drop)
}

async fn a_right_that_is_taken_away_counts_soon(scene: Scene) -> anyhow::Result<()> {
    let_it_judge(&scene).await?;
    let operator = scene.stage().operator_with(&[ADDRESS]).await?;
    let scraper = Scraper::of(&operator).await?;
    let token = reader(&scene, "prometheus").await?;
    scraper.until(&token, 200).await?;
    let binding = format!("metrics-{}-prometheus", scene.name());
    let deleted = scene.stage().cluster.kubectl(&["delete", "clusterrolebinding", &binding]).await?;
    ensure!(deleted.status.success(), "{}", String::from_utf8_lossy(&deleted.stderr));
    scraper.until(&token, 403).await?;
    operator.terminate().await.map(drop)
}

async fn whoever_the_api_server_is_not_asked_about_gets_nothing_until_it_answers(
    scene: Scene,
) -> anyhow::Result<()> {
    let_it_judge(&scene).await?;
    let cluster = &scene.stage().cluster;
    let operator = scene.stage().operator_with(&[ADDRESS]).await?;
    let scraper = Scraper::of(&operator).await?;
    let (known, unknown) = (reader(&scene, "known").await?, reader(&scene, "unknown").await?);
    let frozen = async {
        // Where the answer before was given too long ago, it is asked for again.
        wait::until("a token that was judged before to be believed", || async {
            cluster.resume_apiserver();
            scraper.until(&known, 200).await?;
            cluster.suspend_apiserver();
            let answer = scraper.get(Some(&known)).await?;
            Ok(if answer.status == 200 { Seen::Done(()) } else { Seen::NotYet(format!("{answer:?}")) })
        })
        .await?;
        let answer = scraper.get(Some(&unknown)).await?;
        ensure!(answer.status == 503 && !answer.body.contains(METRIC), "{answer:?}");
        ensure!(scraper.get(None).await?.status == 401, "nobody has to be asked about that");
        Ok(())
    };
    let frozen = frozen.await;
    cluster.resume_apiserver();
    frozen?;
    scraper.until(&unknown, 200).await?;
    operator.terminate().await.map(drop)
}

/// The files of a mounted Secret.
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    fn of(scene: &Scene) -> Self {
        let folder = scene.stage().cluster.folder();
        Self { certificate: folder.join("metrics.crt"), key: folder.join("metrics.key") }
    }

    fn write(&self, certificate: &str, key: &str) -> anyhow::Result<()> {
        // A whole file takes the other's place, as in a volume.
        for (path, text) in [(&self.key, key), (&self.certificate, certificate)] {
            let new = path.with_extension("new");
            std::fs::write(&new, text)?;
            std::fs::rename(&new, path)?;
        }
        Ok(())
    }

    fn put(&self, issued: &Issued) -> anyhow::Result<()> {
        self.write(&issued.tls_crt(), &issued.key)
    }
}

async fn a_renewed_certificate_is_shown_and_rubbish_is_not(scene: Scene) -> anyhow::Result<()> {
    let files = Files::of(&scene);
    let issue = || scene.issue(&Leaf::server(NAME));
    let (first, second, third) = (issue()?, issue()?, issue()?);
    files.put(&first)?;
    let (certificate, key) = (
        format!("--metrics-certificate={}", files.certificate.display()),
        format!("--metrics-key={}", files.key.display()),
    );
    let operator = scene.stage().operator_with(&[ADDRESS, &certificate, &key]).await?;
    // Who checks the certificate can.
    let scraper = Scraper::that_trusts(&operator, &first.root).await?;
    ensure!(scraper.get(None).await?.certificate == der(&first)?);
    files.put(&second)?;
    scraper.until_shown(&second).await?;

    // A key that is another certificate's, then what is no key at all: what it showed before, it shows on.
    for (key, words) in [(first.key.as_str(), "do not belong together"), ("rubbish", "holds no private key")]
    {
        files.write(&third.tls_crt(), key)?;
        wait::until("the log to say what is wrong", || async {
            let log = operator.log();
            let is_told =
                log.lines().any(|line| line.contains("the one before is shown on") && line.contains(words));
            Ok(if is_told { Seen::Done(()) } else { Seen::NotYet(words.to_owned()) })
        })
        .await?;
        ensure!(scraper.get(None).await?.certificate == der(&second)?);
    }
    files.put(&third)?;
    scraper.until_shown(&third).await?;
    operator.terminate().await.map(drop)
}

async fn connections_without_a_word_hold_up_nothing_and_are_closed(scene: Scene) -> anyhow::Result<()> {
    let operator = scene.stage().operator_with(&[ADDRESS]).await?;
    let scraper = Scraper::of(&operator).await?;
    let address = metrics_address(&operator.log()).context("no address")?;
    let mute = try_join_all((0..100).map(|_| TcpStream::connect(address))).await?;
    ensure!(operator.readyz().await?.0 == 200 && operator.livez().await?.0 == 200);
    // It comes last, and has its turn.
    let answer = wait::until("an answer", || async { Ok(Seen::Done(scraper.get(None).await?)) }).await?;
    ensure!(answer.status == 401, "{answer:?}");
    let closed = try_join_all(mute.into_iter().map(async |mut stream| {
        let mut heard = Vec::new();
        // A reset is an end, too.
        tokio::time::timeout(wait::PATIENCE, stream.read_to_end(&mut heard)).await.map(drop)
    }));
    closed.await.context("a connection is still open")?;
    operator.terminate().await.map(drop)
}
