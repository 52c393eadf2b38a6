//! The demo: a cluster, a vault and the operator from nothing; a certificate arrives in the vault and renews.
//! What surrounds the operator is made by `keyvault-sync-e2e`; how a vault looks in words is left to `vault_view`.

mod vault_view;

use std::io::Write;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use k8s_openapi::api::core::v1::Secret;
use keyvault_emulator::{Operation, Permissions};
use keyvault_sync_e2e::certificates::{Authority, Issued, KeyType, Leaf};
use keyvault_sync_e2e::stage::{CLIENT, TENANT};
use keyvault_sync_e2e::{Stage, operator, tools};
use kube::api::{Api, Patch, PatchParams};

/// How many things are started before there is something to see.
const STEPS: usize = 4;
/// A first push needs a token, a look and an import: far below a second. More than this is a defect.
const PATIENCE: Duration = Duration::from_secs(60);

const NAMESPACE: &str = "web";
const VAULT_HOST: &str = "contoso.vault.azure.net";
const CERTIFICATE: &str = "web--shop";
const SECRET: &str = "shop-tls";

const KEY_VAULT: &str = r#"apiVersion: keyvaultsync.io/v1alpha1
kind: KeyVault
metadata: {name: contoso}
spec:
  url: https://contoso.vault.azure.net
  grants:
    - namespaces: {names: ["web"]}
      push: ["{namespace}--*"]
"#;
const SYNC: &str = r#"apiVersion: keyvaultsync.io/v1alpha1
kind: KeyVaultSync
metadata: {name: shop, namespace: web}
spec:
  vaultRef: {name: contoso}
  certificates:
    - {secretName: shop-tls, certificateName: web--shop, tags: {team: shop}}
"#;

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// End by itself, with exit status 0 only if every step was seen
    #[arg(long)]
    once: bool,
}

/// Runs the demo.
///
/// # Errors
/// Something could not be built or started, or a step was not seen; the message says which, with the end of the
/// operator's log.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<()> {
    step(1, "Kubernetes (built once from its Go modules, then kept)");
    tools::ensure_tools()?;
    step(2, "the operator");
    let runtime = tokio::runtime::Runtime::new().context("cannot start an async runtime")?;
    let ended = runtime.block_on(async {
        tokio::select! {
            ended = play(arguments.once) => ended,
            _ = tokio::signal::ctrl_c() => {
                println!("\nEnding.");
                Ok(())
            }
        }
    });
    // What is still running blocks nothing: every child ends with its handle, and at the latest with this process.
    runtime.shutdown_timeout(Duration::from_secs(5));
    if ended.is_ok() {
        println!("Ended: no process and no folder is left.");
    }
    ended
}

async fn play(once: bool) -> anyhow::Result<()> {
    operator::binary().await?;
    step(3, "etcd, kube-apiserver, kube-controller-manager and a local Key Vault");
    let stage = Stage::start().await?;
    stage.emulator.add_vault(VAULT_HOST, TENANT);
    stage.emulator.allow(VAULT_HOST, CLIENT, Permissions::all());
    step(4, "the operator, as its own ServiceAccount under its own RBAC");
    stage.running().await?;
    let played = act(&stage, once).await;
    if played.is_err() {
        println!("\n{}", stage.dump("").await);
    }
    let closed = stage.close().await;
    played.and(closed)
}

async fn act(stage: &Stage, once: bool) -> anyhow::Result<()> {
    let issuer = Authority::root("Demo root")?.intermediate("Demo intermediate")?;
    let leaf = Leaf::server("shop.example.com").key_type(KeyType::Rsa2048);

    title("A platform team registers a vault, a team says which Secret goes there");
    apply(stage, &format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n")).await?;
    for document in [KEY_VAULT, SYNC] {
        println!("{document}");
        apply(stage, document).await?;
    }
    let waiting = r#"--for=jsonpath={.status.conditions[?(@.type=="Ready")].reason}=SecretNotFound"#;
    kubectl(stage, &["wait", "keyvaultsync/shop", "-n", NAMESPACE, waiting, "--timeout=60s"]).await?;
    kubectl(stage, &["get", "keyvaultsyncs", "-A"]).await?;

    title("cert-manager writes the Secret (here: a root, an intermediate and a leaf made a moment ago)");
    let first = arrival(stage, &issuer.issue(&leaf)?, 1).await?;
    println!("Secret {NAMESPACE}/{SECRET} written; its import reached the vault {first} ms later.");
    kubectl(stage, &["wait", "keyvaultsync/shop", "-n", NAMESPACE, "--for=condition=Ready", "--timeout=60s"])
        .await?;
    kubectl(stage, &["get", "keyvaultsyncs", "-A"]).await?;
    kubectl(stage, &["get", "keyvaultcertificates"]).await?;
    kubectl(stage, &["get", "keyvaults"]).await?;
    events(stage).await?;

    title("The certificate as the vault has it");
    let stored =
        stage.emulator.certificate(VAULT_HOST, CERTIFICATE).context("the vault has no such certificate")?;
    print!("{}", vault_view::describe(VAULT_HOST, &stored)?);

    title("The certificate is renewed");
    let second = arrival(stage, &issuer.issue(&leaf)?, 2).await?;
    println!("Secret written again; the second version reached the vault {second} ms later.");
    kubectl(stage, &["wait", "keyvaultsync/shop", "-n", NAMESPACE, "--for=condition=Ready", "--timeout=60s"])
        .await?;
    let stored =
        stage.emulator.certificate(VAULT_HOST, CERTIFICATE).context("the vault has no such certificate")?;
    ensure!(stored.versions.len() == 2, "the vault has {} versions, not 2", stored.versions.len());
    print!("{}", vault_view::describe(VAULT_HOST, &stored)?);
    events(stage).await?;
    if once {
        return Ok(());
    }
    stay(stage).await
}

/// Writes the Secret and waits until the vault has so many versions. Milliseconds from the write to the moment the
/// import's request began to arrive.
async fn arrival(stage: &Stage, issued: &Issued, versions: usize) -> anyhow::Result<u128> {
    stage.guard(&issued.key);
    let secret = issued.secret(NAMESPACE, SECRET);
    let secrets: Api<Secret> = Api::namespaced(stage.client().clone(), NAMESPACE);
    let written = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros();
    let imports = |calls: &[keyvault_emulator::Call]| {
        calls.iter().filter(|call| call.operation == Operation::Import && call.committed).count()
    };
    // As cert-manager does, and not with kubectl: a key has no business on a command line.
    let params = PatchParams::apply("cert-manager").force();
    secrets.patch(SECRET, &params, &Patch::Apply(&secret)).await.context("the Secret cannot be written")?;
    if !stage.emulator.wait_for(PATIENCE, |calls| imports(calls) >= versions).await {
        bail!("version {versions} did not arrive in the vault within {} s", PATIENCE.as_secs());
    }
    let calls = stage.emulator.calls(VAULT_HOST);
    let import = calls
        .iter()
        .filter(|call| call.operation == Operation::Import && call.committed)
        .nth(versions - 1)
        .context("the journal has no such import")?;
    Ok(u128::from(import.began_unix_us).saturating_sub(written) / 1000)
}

async fn apply(stage: &Stage, yaml: &str) -> anyhow::Result<()> {
    stage.cluster.apply(yaml).await
}

/// Runs kubectl and shows the command with its output.
async fn kubectl(stage: &Stage, arguments: &[&str]) -> anyhow::Result<()> {
    println!("$ kubectl {}", arguments.join(" "));
    let output = stage.cluster.kubectl(arguments).await?;
    print!("{}", String::from_utf8_lossy(&output.stdout));
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "kubectl failed: {complaint}");
    println!();
    Ok(())
}

async fn events(stage: &Stage) -> anyhow::Result<()> {
    let columns = "custom-columns=TYPE:.type,REASON:.reason,OBJECT:.regarding.name,NOTE:.note";
    kubectl(stage, &["get", "events.events.k8s.io", "-n", NAMESPACE, "--sort-by=.eventTime", "-o", columns])
        .await
}

/// Stays up, with the lines to paste; ended by Ctrl-C.
async fn stay(stage: &Stage) -> anyhow::Result<()> {
    let admin = stage.emulator.start_admin((Ipv4Addr::LOCALHOST, 0).into()).await?;
    let kubectl = stage.cluster.kubectl_path().parent().unwrap_or(Path::new("/")).display();
    title("It is yours until Ctrl-C. In another terminal:");
    println!(
        "\
export KUBECONFIG={kubeconfig} PATH={kubectl}:$PATH
kubectl get keyvault-sync -A

# the vault: what it holds, and every call it got
curl -s http://{admin}/vaults/{VAULT_HOST}/certificates/{CERTIFICATE}
curl -s 'http://{admin}/journal?operation=Import'

# break something, and see what is said (kubectl get keyvaultsync shop -n {NAMESPACE} -o wide)
kubectl patch secret {SECRET} -n {NAMESPACE} -p '{{\"data\":{{\"tls.key\":\"\"}}}}'
kubectl patch keyvault contoso --type=merge -p '{{\"spec\":{{\"grants\":[]}}}}'
curl -s http://{admin}/faults -d '{{\"operation\":\"Import\",\"times\":3,\"effect\":{{\"kind\":\"status\",\"status\":429,\"code\":\"Throttled\",\"retryAfter\":\"3\"}}}}'
curl -s -X POST http://{admin}/vaults/{VAULT_HOST}/certificates/{CERTIFICATE}/purge
kubectl annotate keyvaultsync shop -n {NAMESPACE} --overwrite keyvaultsync.io/sync-at=$(date +%s)

# what the operator says of it
tail -f {folder}/operator-1.log",
        kubeconfig = stage.cluster.admin_kubeconfig().display(),
        folder = stage.cluster.folder().display(),
    );
    std::io::stdout().flush()?;
    std::future::pending().await
}

fn step(number: usize, what: &str) {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed().as_secs();
    println!("[{number}/{STEPS}] {elapsed:>4} s  {what}");
}

fn title(text: &str) {
    println!("\n== {text}\n");
}
