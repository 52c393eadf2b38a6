//! The lines to paste for playing with a demo that stays up: looking, as users and as Azure's clients do; and breaking things.
//! They are only printed here; docs/demo.md says what each of them shows.

use std::fmt::Write as _;
use std::net::SocketAddr;

use keyvault_sync_api::constants::SYNC_AT_ANNOTATION;
use keyvault_sync_e2e::Stage;
use keyvault_sync_e2e::operator::Operator;
use keyvault_sync_e2e::stage::{CLIENT, OPERATOR, TENANT};

use super::documents::{CERTIFICATE, GRANTS, HOST, KEY_VAULT, NAMESPACE, NEXT_SECRET, SECRET, SYNC};

/// A heading, and lines that are pasted as they are.
pub(crate) struct Part {
    /// What the lines are for.
    pub(crate) heading: &'static str,
    /// The lines.
    pub(crate) lines: String,
}

/// Everything there is to paste. The variables of the first part serve the others.
pub(crate) fn parts(stage: &Stage, operator: &Operator, admin: SocketAddr) -> Vec<Part> {
    vec![
        Part { heading: "In another terminal, first", lines: variables(stage, admin) },
        Part { heading: "Look", lines: look(operator) },
        Part {
            heading: "Ask the vault as any Azure client does, as the operator's identity",
            lines: ask(stage),
        },
        Part {
            heading: "Change and break things; see what is said with the first two lines of Look",
            lines: breaks(),
        },
    ]
}

fn variables(stage: &Stage, admin: SocketAddr) -> String {
    let kubectl = stage.cluster.kubectl_path();
    format!(
        "export KUBECONFIG={}\nkubectl() {{ {} \"$@\"; }}\nVAULT=http://{admin}/vaults/{HOST}\nADMIN=http://{admin}\n",
        stage.cluster.admin_kubeconfig().display(),
        kubectl.display(),
    )
}

fn look(operator: &Operator) -> String {
    format!(
        "kubectl get keyvault-sync -A -o wide\n\
         kubectl events -n {NAMESPACE}\n\
         kubectl get keyvaultsync {SYNC} -n {NAMESPACE} -o yaml\n\
         curl -s $VAULT/certificates/{CERTIFICATE}\n\
         curl -s \"$ADMIN/journal?operation=Import\"\n\
         tail -f {}\n",
        operator.log_path().display()
    )
}

fn ask(stage: &Stage) -> String {
    let curl = format!(
        "curl -s --cacert {} --connect-to ::{}",
        stage.ca_bundle().display(),
        stage.emulator.address()
    );
    format!(
        "ASSERTION=$(kubectl create token {OPERATOR} -n {OPERATOR} --audience api://AzureADTokenExchange)\n\
         TOKEN=$({curl} https://login.microsoftonline.com/{TENANT}/oauth2/v2.0/token \\\n\
         \x20 -d grant_type=client_credentials -d client_id={CLIENT} -d scope=https://vault.azure.net/.default \\\n\
         \x20 -d client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer \\\n\
         \x20 -d client_assertion=$ASSERTION | sed 's/.*\"access_token\":\"\\([^\"]*\\)\".*/\\1/')\n\
         {curl} -H \"Authorization: Bearer $TOKEN\" \"https://{HOST}/certificates/{CERTIFICATE}?api-version=2025-07-01\"\n"
    )
}

fn breaks() -> String {
    let key = format!(
        "kubectl get secret {NEXT_SECRET} -n {NAMESPACE} -o go-template='{{{{index .data \"tls.key\"}}}}'"
    );
    let both = format!(
        "kubectl get secret {NEXT_SECRET} -n {NAMESPACE} \
         -o go-template='{{\"data\":{{\"tls.crt\":\"{{{{index .data \"tls.crt\"}}}}\",\"tls.key\":\"{{{{index .data \"tls.key\"}}}}\"}}}}'"
    );
    let patch_secret = format!("kubectl patch secret {SECRET} -n {NAMESPACE}");
    let patch_vault = format!("kubectl patch keyvault {KEY_VAULT} --type=merge");
    let compare = format!(
        "kubectl annotate keyvaultsync {SYNC} -n {NAMESPACE} --overwrite {SYNC_AT_ANNOTATION}=$(date +%s)"
    );
    let permissions = format!("curl -s -X POST $ADMIN/vaults/{HOST}/permissions/{CLIENT}");
    let acts = [
        ("the key of another certificate", format!("{patch_secret} -p '{{\"data\":{{\"tls.key\":\"'$({key})'\"}}}}'")),
        ("repaired, which is a renewal", format!("{patch_secret} -p \"$({both})\"")),
        ("no grant, and the grant again", format!("{patch_vault} -p '{{\"spec\":{{\"grants\":[]}}}}'")),
        ("", format!("{patch_vault} -p '{{\"spec\":{{\"grants\":{GRANTS}}}}}'")),
        ("the role is lost (403), and given again", format!("{permissions}/none; {compare}")),
        ("", format!("{permissions}/certificates-officer; {compare}")),
        ("deleted in the vault: found when asked to compare, and recovered", format!("curl -s -X POST $VAULT/certificates/{CERTIFICATE}/soft-delete; {compare}")),
        (
            "the vault is busy: three imports are answered 429; then a renewal by the operator's own retries",
            "curl -s $ADMIN/faults -d '{\"operation\":\"Import\",\"times\":3,\"effect\":{\"kind\":\"status\",\"status\":429,\"code\":\"Throttled\",\"retryAfter\":\"3\"}}'".to_owned(),
        ),
        ("", format!("curl -s -X POST $VAULT/certificates/{CERTIFICATE}/purge; {compare}")),
    ];
    let mut lines = String::new();
    for (about, act) in acts {
        if !about.is_empty() {
            // Writing to a String cannot fail.
            let _ = writeln!(lines, "# {about}");
        }
        let _ = writeln!(lines, "{act}");
    }
    lines
}
