//! Every flag and environment variable, once. What a setting leads to is left to the module that reads it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use keyvault_sync_api::Duration as Span;
use keyvault_sync_core::labels::{self, Requirement};
use keyvault_sync_core::lease::LASTS_MAX;
use keyvault_sync_core::names::Cloud;
use keyvault_sync_core::ownership::ClusterId;
use keyvault_sync_core::pfx::PfxEncryption;

use crate::installation::Installation;
use crate::reference::Reference;
use crate::tools::Tool;

/// Puts the certificates of Kubernetes Secrets into Azure Key Vault, as KeyVaultSync resources say.
#[derive(Clone, Debug, Parser)]
#[command(name = "keyvault-sync", version, about, long_about = None, args_conflicts_with_subcommands = true)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: Settings,
}

/// What can be done.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the operator; so does no command at all.
    Run(Box<Settings>),
    #[command(flatten)]
    Tool(Tool),
    /// Print a table of the documentation; `cargo xtask gen` puts it into its page.
    #[command(hide = true)]
    Reference {
        /// What it is about.
        what: Reference,
    },
}

/// What kubectl calls a plugin's program begins with this, and it is run as `kubectl keyvault-sync`.
const PLUGIN: &str = "kubectl-";
/// The exit code of a command line that cannot be read: 2 is what tools answer when something is not well.
const USAGE: i32 = 1;

impl CommandLine {
    /// What the command line of this process says. Ends the process where it asks for help or cannot be read.
    pub(crate) fn read() -> Self {
        let mut arguments = std::env::args_os().peekable();
        let program = arguments.peek().map(PathBuf::from);
        let name = program.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy());
        let is_plugin = name.is_some_and(|name| name.starts_with(PLUGIN));
        let command = Self::command_for(is_plugin);
        let parsed = command.try_get_matches_from(arguments).and_then(|found| Self::from_arg_matches(&found));
        parsed.unwrap_or_else(|error| {
            // There is nobody to tell if that fails.
            let _ = error.print();
            std::process::exit(if error.use_stderr() { USAGE } else { 0 })
        })
    }

    fn command_for(is_plugin: bool) -> clap::Command {
        let command = Self::command();
        if !is_plugin {
            return command;
        }
        // Whoever calls kubectl wants no operator to run on his machine for having forgotten a word.
        command.bin_name("kubectl keyvault-sync").subcommand_required(true).arg_required_else_help(true)
    }

    /// What is to be done.
    pub(crate) fn chosen(self) -> Command {
        self.command.unwrap_or_else(|| Command::Run(Box::new(self.settings)))
    }
}

/// The operator's settings, each a flag and an environment variable.
#[derive(Args, Clone, Debug)]
pub(crate) struct Settings {
    #[command(flatten)]
    pub access: Access,

    /// Which installation this is: the operator's namespace, a dot, the release. Its claims are labelled with it, and its replicas share
    /// the Lease of that namespace and name.
    #[arg(long, env = "KEYVAULT_SYNC_INSTALLATION", default_value = "keyvault-sync.keyvault-sync")]
    pub installation: Installation,

    /// Serve the KeyVaultSyncs and ClusterKeyVaultSyncs with these labels alone, as kubectl get -l has them: team=web,!canary. For
    /// several installations in one cluster, which must not select the same resources [default: all].
    #[arg(long, env = "KEYVAULT_SYNC_RESOURCE_SELECTOR", value_parser = selector)]
    pub resource_selector: Option<Selector>,

    /// How long the lease of the replica that leads lasts, 20s to 5m; it is renewed six times in that time. When the leader dies without a
    /// word, another leads after this.
    #[arg(long, env = "KEYVAULT_SYNC_LEASE_DURATION", default_value = "30s", value_parser = lease_duration)]
    pub lease_duration: Span,

    /// Uid of the operator's pod: a container that is started again leads at once if the one before did.
    #[arg(long, env = "POD_UID")]
    pub pod_uid: Option<String>,

    /// Serve these namespaces alone: web,shop. Then the operator needs rights on Secrets there and in its own namespace only; there are
    /// no ClusterKeyVaultSyncs, no grants by labels, and --cluster-id has to be set [default: serve all namespaces].
    #[arg(long, env = "KEYVAULT_SYNC_WATCH_NAMESPACES", value_delimiter = ',', requires = "cluster_id", value_parser = namespace)]
    pub watch_namespaces: Vec<String>,

    /// The operator's own namespace, where the Secrets are that KeyVaults name [default: the pod's namespace].
    #[arg(long, env = "POD_NAMESPACE")]
    pub namespace: Option<String>,

    /// Encryption of the PKCS#12 bundles sent to the vault: aes256-sha256, or 3des-sha1 for a vault that refuses it.
    #[arg(long, env = "KEYVAULT_SYNC_PFX_ENCRYPTION", default_value = "aes256-sha256")]
    pub pfx_encryption: PfxEncryption,

    /// How long copies of one certificate in several namespaces may differ before they are a NameCollision (they arrive one
    /// after the other), for example 2m.
    #[arg(long, env = "KEYVAULT_SYNC_COPIES_PATIENCE", default_value = "2m")]
    pub copies_patience: Span,

    /// How long the deletion of a certificate in a vault is tried, attempt after attempt, before the certificate is left there
    /// (LeftInVault), for example 1h; at least five attempts since the operator's start, throttled ones not counted.
    #[arg(long, env = "KEYVAULT_SYNC_DELETION_EFFORT", default_value = "1h")]
    pub deletion_effort: Span,

    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, env = "KEYVAULT_SYNC_HEALTH_ADDRESS", default_value = "0.0.0.0:8080")]
    pub health_address: SocketAddr,

    /// Where /metrics is served over HTTPS instead, for who shows a bearer token of the cluster that may get the non-resource URL
    /// /metrics: 0.0.0.0:8443 [default: at --health-address, over HTTP, for everybody].
    #[arg(long, env = "KEYVAULT_SYNC_METRICS_ADDRESS")]
    pub metrics_address: Option<SocketAddr>,

    /// PEM file of the certificate that is shown there, read again when it changes [default: one made at the start].
    #[arg(
        long,
        env = "KEYVAULT_SYNC_METRICS_CERTIFICATE",
        requires = "metrics_key",
        requires = "metrics_address"
    )]
    pub metrics_certificate: Option<PathBuf>,

    /// PEM file of its key.
    #[arg(long, env = "KEYVAULT_SYNC_METRICS_KEY", requires = "metrics_certificate")]
    pub metrics_key: Option<PathBuf>,

    /// After how long a watch of the API server is ended and asked for anew: shorter than anything on the way lets a quiet
    /// connection live (AKS: 240 s). A watch that shows nothing for three times as long fails /livez.
    #[arg(long, env = "KEYVAULT_SYNC_WATCH_TIMEOUT", default_value = "200s")]
    pub watch_timeout: Span,

    /// Whether each certificate has metrics of its own (expiry, last success, state, versions), at most 5000 of them.
    #[arg(long, env = "KEYVAULT_SYNC_CERTIFICATE_METRICS", default_value = "on")]
    pub certificate_metrics: Switch,

    /// Form of the log, which goes to standard error.
    #[arg(long, env = "KEYVAULT_SYNC_LOG_FORMAT", default_value = "json")]
    pub log_format: LogFormat,

    /// What is logged, as tracing filters: info, or keyvault_sync=debug,kube=info. HTTP libraries never print headers or bodies, whatever
    /// is asked for.
    #[arg(long, env = "KEYVAULT_SYNC_LOG", default_value = "info")]
    pub log: String,
}

/// How vaults are reached, as whom, and in which cluster's name: the operator and the tools for the hand say it alike.
#[derive(Args, Clone, Debug)]
pub(crate) struct Access {
    /// Which cluster this is, in the owner tag of every certificate: 1 to 63 of a-z, 0-9 and hyphen
    /// [default: the UID of the namespace kube-system]. Set it to keep the certificates of a cluster that is rebuilt.
    /// Two clusters must never share one.
    #[arg(long, env = "KEYVAULT_SYNC_CLUSTER_ID", value_parser = ClusterId::parse)]
    pub cluster_id: Option<ClusterId>,

    /// Clouds whose vaults may be used; each fixes the DNS suffix, the authority and the token audience.
    #[arg(
        long,
        env = "KEYVAULT_SYNC_CLOUDS",
        value_delimiter = ',',
        default_value = "public,china,us-government"
    )]
    pub clouds: Vec<CloudName>,

    /// Host of the token authority, where it is not the cloud's own (China's workload identity, for one).
    #[arg(long, env = "KEYVAULT_SYNC_AUTHORITY_HOST")]
    pub authority_host: Option<String>,

    /// PEM file of certificate authorities that are trusted beside the public ones: a TLS-inspecting proxy's, say.
    #[arg(long, env = "KEYVAULT_SYNC_CA_BUNDLE")]
    pub ca_bundle: Option<PathBuf>,

    /// ServiceAccounts whose tokens KeyVaults with identity.serviceAccount may use, by name, in every namespace: keyvault,certs;
    /// or * for any. Without it there are none, and no such identity.
    #[arg(long, env = "KEYVAULT_SYNC_SERVICE_ACCOUNTS", value_delimiter = ',', value_parser = account_name)]
    pub service_accounts: Vec<String>,

    /// Where the node's metadata service answers for identity.managedIdentity [default: http://169.254.169.254]. A loopback
    /// address is taken beside that one: a proxy on the node, or an emulator.
    #[arg(long, env = "KEYVAULT_SYNC_IMDS_ENDPOINT")]
    pub imds_endpoint: Option<String>,

    /// For tests and demos: loopback address of a keyvault-emulator that stands in for every vault and token endpoint.
    #[arg(long, env = "KEYVAULT_SYNC_EMULATOR_ADDRESS", value_parser = loopback)]
    pub emulator_address: Option<SocketAddr>,

    /// Entra ID tenant of the operator's workload identity; the workload identity webhook sets it.
    #[arg(long, env = "AZURE_TENANT_ID")]
    pub azure_tenant_id: Option<String>,

    /// Client id of the operator's workload identity; the workload identity webhook sets it.
    #[arg(long, env = "AZURE_CLIENT_ID")]
    pub azure_client_id: Option<String>,

    /// File with the operator's federated token, read for each exchange; the workload identity webhook sets it.
    #[arg(long, env = "AZURE_FEDERATED_TOKEN_FILE")]
    pub azure_federated_token_file: Option<PathBuf>,
}

impl Settings {
    /// What the environment says, where it says anything.
    ///
    /// # Errors
    /// What of it cannot be read.
    pub(crate) fn of_environment() -> Result<Self, clap::Error> {
        Self::of_arguments(std::iter::empty())
    }

    /// What an operator with these arguments is set to.
    ///
    /// # Errors
    /// What of it cannot be read.
    pub(crate) fn of_arguments(arguments: impl Iterator<Item = String>) -> Result<Self, clap::Error> {
        let line = std::iter::once("keyvault-sync".to_owned()).chain(arguments);
        match CommandLine::try_parse_from(line)?.chosen() {
            Command::Run(settings) => Ok(*settings),
            Command::Tool(_) | Command::Reference { .. } => {
                Err(clap::Error::new(clap::error::ErrorKind::InvalidSubcommand))
            }
        }
    }

    /// Each flag and the environment variable that says the same.
    pub(crate) fn variables() -> Vec<(String, String)> {
        let command = Self::augment_args(clap::Command::new("keyvault-sync"));
        let named = |argument: &clap::Arg| {
            let variable = argument.get_env()?.to_str()?.to_owned();
            Some((argument.get_long()?.to_owned(), variable))
        };
        command.get_arguments().filter_map(named).collect()
    }

    /// Whether tokens of the ServiceAccounts of this name may be asked for.
    pub(crate) fn allows_service_account(&self, name: &str) -> bool {
        self.access.service_accounts.iter().any(|allowed| allowed == "*" || allowed == name)
    }

    /// The clouds whose vaults may be used.
    pub(crate) fn allowed_clouds(&self) -> Vec<Cloud> {
        self.access.clouds.iter().map(|cloud| (*cloud).into()).collect()
    }
}

/// A cloud, as the command line names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CloudName {
    /// Azure public: vault.azure.net.
    Public,
    /// Azure operated by 21Vianet: vault.azure.cn.
    China,
    /// Azure US government: vault.usgovcloudapi.net.
    UsGovernment,
}

impl From<CloudName> for Cloud {
    fn from(name: CloudName) -> Self {
        match name {
            CloudName::Public => Cloud::Public,
            CloudName::China => Cloud::China,
            CloudName::UsGovernment => Cloud::UsGovernment,
        }
    }
}

/// Whether something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    /// It is.
    On,
    /// It is not.
    Off,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For a terminal.
    Text,
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| format!("{text:?} is not ADDRESS:PORT"))?;
    if address.ip().is_loopback() {
        return Ok(address);
    }
    Err(format!("{address} is not a loopback address: an emulator stands in for Azure on this machine only"))
}

fn namespace(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_name = (1..=63).contains(&text.len()) && text.chars().all(plain);
    if is_name && !text.starts_with('-') && !text.ends_with('-') {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} is not the name of a namespace"))
}

fn account_name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let is_name = text.len() <= 253 && text.chars().all(plain) && ends(text.chars().next());
    if text == "*" || (is_name && ends(text.chars().last())) {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} is not the name of a ServiceAccount, nor *"))
}

/// What the labels of a resource must meet.
pub(crate) type Selector = std::sync::Arc<Vec<Requirement>>;

fn selector(text: &str) -> Result<Selector, String> {
    if text.is_empty() { Ok(Selector::default()) } else { labels::parse(text).map(Selector::new) }
}

/// A vault write takes ten seconds at most, and its announcement three: a lease has to last for more than both.
fn lease_duration(text: &str) -> Result<Span, String> {
    let length = text.parse::<Span>().map_err(|error| error.to_string())?;
    if (20..=LASTS_MAX.as_secs()).contains(&length.as_secs()) {
        return Ok(length);
    }
    Err(format!("{text} is not between 20s and 5m"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn as_a_plugin_it_says_how_kubectl_calls_it_and_never_runs_the_operator_unasked() {
        let help = |is_plugin| {
            let mut command = CommandLine::command_for(is_plugin);
            command.try_get_matches_from_mut(["any-name", "status", "--help"]).unwrap_err().to_string()
        };
        assert!(help(true).contains("Usage: kubectl keyvault-sync status"), "{}", help(true));
        assert!(!help(false).contains("kubectl keyvault-sync"), "{}", help(false));
        assert!(CommandLine::command_for(true).try_get_matches_from(["kubectl-keyvault_sync"]).is_err());
        assert!(CommandLine::command_for(false).try_get_matches_from(["keyvault-sync"]).is_ok());
    }

    #[test]
    fn an_emulator_is_on_this_machine_or_refused() {
        assert!(loopback("127.0.0.1:8443").is_ok());
        assert!(loopback("10.0.0.1:443").unwrap_err().contains("not a loopback"));
        assert!(loopback("localhost").is_err());
    }

    #[test]
    fn service_accounts_are_allowed_by_name_or_all_and_none_by_default() {
        let settings =
            |arguments: &[&str]| CommandLine::try_parse_from([&["keyvault-sync"], arguments].concat());
        for (arguments, keyvault, other) in [
            (&[][..], false, false),
            (&["--service-accounts=keyvault"], true, false),
            (&["--service-accounts=keyvault,other"], true, true),
            (&["--service-accounts=*"], true, true),
        ] {
            let settings = settings(arguments).unwrap();
            let allowed = ["keyvault", "other"].map(|name| settings.settings.allows_service_account(name));
            assert_eq!(allowed, [keyvault, other], "{arguments:?}");
        }
        for bad in [
            "--service-accounts=",
            "--service-accounts=Key",
            "--service-accounts=a*",
            "--service-accounts=-a",
        ] {
            assert!(settings(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn who_serves_some_namespaces_has_to_be_told_which_cluster_it_is_in() {
        let settings =
            |arguments: &[&str]| CommandLine::try_parse_from([&["keyvault-sync"], arguments].concat());
        assert!(settings(&["--watch-namespaces=web"]).unwrap_err().to_string().contains("--cluster-id"));
        let served =
            settings(&["--watch-namespaces=web,shop", "--cluster-id=c1"]).unwrap().settings.watch_namespaces;
        assert_eq!(served, ["web", "shop"]);
        for bad in ["--watch-namespaces=", "--watch-namespaces=*", "--watch-namespaces=Web"] {
            assert!(settings(&[bad, "--cluster-id=c1"]).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_lease_outlasts_a_write() {
        for (text, is_taken) in [("20s", true), ("5m", true), ("19s", false), ("6m", false), ("x", false)] {
            assert_eq!(lease_duration(text).is_ok(), is_taken, "{text}");
        }
    }
}
