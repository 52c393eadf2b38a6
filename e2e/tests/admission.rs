//! Who writes claims and statuses, and which tokens the operator requests: each rule is broken with real tokens, under RBAC
//! that would allow it, and what must go on beside it goes on. What the schema refuses anybody is left to `schema`.

use anyhow::{Context, bail, ensure};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use keyvault_sync_api::admission::{self, OPERATOR_ONLY, Policy, TOKEN_AUDIENCE};
use keyvault_sync_api::constants::GROUP;
use keyvault_sync_api::rbac::{self, CLUSTER_ROLE, SERVICE_ACCOUNT_ROLE};
use keyvault_sync_api::{ClusterKeyVaultSync, KeyVault, KeyVaultCertificate, KeyVaultSync};
use keyvault_sync_e2e::Scene;
use keyvault_sync_e2e::stage::OPERATOR;
use keyvault_sync_e2e::wait::{self, Seen};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

keyvault_sync_e2e::promises!(Together:
    a_tenant_forges_no_claim,
    a_tenant_changes_no_claim,
    a_tenant_writes_no_status,
    labels_deletions_by_hand_and_the_operators_own_writes_go_on,
    the_operator_gets_tokens_for_the_exchange_only,
    everybody_elses_tokens_are_their_own_affair,
    the_operator_cannot_give_itself_more,
    a_second_installation_shares_the_policy_and_is_held_to_its_own,
    the_plain_manifests_apply_as_they_are,
);

/// What the ServiceAccount of a tenant is called, and the one that a namespace is to act as.
const TENANT: &str = "tenant";
const IDENTITY: &str = "keyvault";

async fn a_tenant_forges_no_claim(scene: Scene) -> anyhow::Result<()> {
    pushed(&scene).await?;
    let tenant = Api::<KeyVaultCertificate>::all(tenant(&scene).await?);
    let forged = forged(&scene).await?;
    let name = forged.name_any();
    refused(tenant.create(&PostParams::default(), &forged).await, OPERATOR_ONLY, "change the KeyVaultSync")?;
    refused(tenant.patch(&name, &by_apply(), &Patch::Apply(&forged)).await, OPERATOR_ONLY, "KeyVaultSync")?;
    ensure!(scene.claims().get_opt(&name).await?.is_none(), "a forged claim is there");
    // Nothing is wrong with it but its author.
    let operator = Api::<KeyVaultCertificate>::all(service_account(&scene, OPERATOR, OPERATOR).await?);
    operator.create(&PostParams { dry_run: true, ..PostParams::default() }, &forged).await?;
    Ok(())
}

async fn a_tenant_changes_no_claim(scene: Scene) -> anyhow::Result<()> {
    pushed(&scene).await?;
    let tenant = Api::<KeyVaultCertificate>::all(tenant(&scene).await?);
    let before = scene.claim("web-tls").await?;
    let name = before.name_any();
    let changes = [
        json!({"owner": {"name": "other"}}),
        json!({"owner": {"kind": "ClusterKeyVaultSync", "namespace": null}}),
        json!({"sources": [{"namespace": "kube-system", "secretName": "web-tls"}]}),
        json!({"keyVault": "other"}),
        json!({"clusterId": "other"}),
        json!({"adoptFromClusters": ["other"]}),
        json!({"conflictPolicy": "Adopt"}),
        json!({"deletionPolicy": "Delete"}),
        json!({"release": {"why": "EntryGone", "since": "2026-01-01T00:00:00Z"}}),
        json!({"syncAt": "now"}),
        json!({"suspend": true}),
    ];
    for change in changes {
        // A label beside it does not help.
        let patch = json!({"metadata": {"labels": {"example.com/team": "web"}}, "spec": change});
        let outcome = tenant.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        refused(outcome, OPERATOR_ONLY, "").with_context(|| format!("{change}"))?;
    }
    // Nobody at all may do this: the name says which vault it is.
    let elsewhere = json!({"spec": {"vaultHost": "other.vault.azure.net"}});
    let outcome = tenant.patch(&name, &PatchParams::default(), &Patch::Merge(&elsewhere)).await;
    ensure!(outcome.is_err(), "another vault was accepted");

    let mut changed = before.clone();
    changed.spec.owner.name = "other".to_owned();
    refused(tenant.replace(&name, &PostParams::default(), &changed).await, OPERATOR_ONLY, "")?;
    changed.metadata = KeyVaultCertificate::new(&name, changed.spec.clone()).metadata;
    refused(tenant.patch(&name, &by_apply(), &Patch::Apply(&changed)).await, OPERATOR_ONLY, "")?;
    let after = scene.claim("web-tls").await?;
    ensure!(after.spec == before.spec && after.uid() == before.uid(), "{after:?}");
    Ok(())
}

async fn a_tenant_writes_no_status(scene: Scene) -> anyhow::Result<()> {
    pushed(&scene).await?;
    scene.cluster_sync(scene.name(), json!({"selector": {"names": ["none"]}})).await?;
    let tenant = tenant(&scene).await?;
    let synced = json!({"conditions": [{
        "type": "Ready", "status": "True", "reason": "Synced", "message": "forged", "observedGeneration": 1,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }]});
    let version = json!({"version": "00000000000000000000000000000000"});
    let wishes = Api::<KeyVaultSync>::namespaced(tenant.clone(), scene.name());
    no_status(&wishes, "web", &synced).await?;
    no_status(&wishes, "web", &json!({"certificates": [], "synced": "1/1"})).await?;
    no_status(&Api::<ClusterKeyVaultSync>::all(tenant.clone()), scene.name(), &synced).await?;
    no_status(&Api::<KeyVault>::all(tenant.clone()), scene.name(), &synced).await?;
    let claims = Api::<KeyVaultCertificate>::all(tenant);
    no_status(&claims, &scene.claim_name("web-tls"), &synced).await?;
    no_status(&claims, &scene.claim_name("web-tls"), &version).await?;

    let mut claim = scene.claim("web-tls").await?;
    claim.status.as_mut().context("no status")?.version = None;
    let outcome = claims.replace_status(&claim.name_any(), &PostParams::default(), &claim).await;
    refused(outcome, OPERATOR_ONLY, "the status of every kind")
}

/// Writes a status by both kinds of patch, which must be refused.
async fn no_status<K>(api: &Api<K>, name: &str, status: &Value) -> anyhow::Result<()>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let change = json!({
        "apiVersion": K::api_version(&()), "kind": K::kind(&()), "metadata": {"name": name}, "status": status,
    });
    let what = || format!("{change}");
    let outcome = api.patch_status(name, &PatchParams::default(), &Patch::Merge(&change)).await;
    refused(outcome, OPERATOR_ONLY, "the status of every kind").with_context(what)?;
    let outcome = api.patch_status(name, &by_apply(), &Patch::Apply(&change)).await;
    refused(outcome, OPERATOR_ONLY, "the status of every kind").with_context(what)
}

async fn labels_deletions_by_hand_and_the_operators_own_writes_go_on(scene: Scene) -> anyhow::Result<()> {
    pushed(&scene).await?;
    let tenant = tenant(&scene).await?;
    let (claims, name) = (Api::<KeyVaultCertificate>::all(tenant.clone()), scene.claim_name("web-tls"));
    let label = json!({"metadata": {"labels": {"example.com/team": "web"}}});
    let labelled = claims.patch(&name, &PatchParams::default(), &Patch::Merge(&label)).await?;
    ensure!(labelled.labels().get("example.com/team").is_some_and(|team| team == "web"), "{labelled:?}");
    // As the migration of stored versions writes: everything as it was.
    let same = wait::until("updates without a change to pass", || async {
        let same = scene.claim("web-tls").await?;
        claims.replace(&name, &PostParams::default(), &same).await?;
        claims.replace_status(&name, &PostParams::default(), &same).await?;
        Ok(Seen::Done(same))
    })
    .await?;
    let marked = json!({"metadata": {"annotations": {"example.com/note": "x"}}});
    let wishes = Api::<KeyVaultSync>::namespaced(tenant, scene.name());
    wishes.patch("web", &PatchParams::default(), &Patch::Merge(&marked)).await?;

    claims.delete(&name, &DeleteParams::default()).await.context("a deletion by hand")?;
    wait::object(&scene.claims(), &name, "to be made anew", |claim| {
        claim.uid() != same.uid() && claim.status.as_ref().is_some_and(|status| status.version.is_some())
    })
    .await?;
    scene.untouched("web-tls")?;
    let renewed = scene.renew("web-tls").await?;
    scene.holds("web", "web-tls", &renewed).await?;
    Ok(())
}

async fn the_operator_gets_tokens_for_the_exchange_only(scene: Scene) -> anyhow::Result<()> {
    let role = serde_json::to_string(&rbac::service_account_role(&[IDENTITY]))?;
    let binding = bind_everywhere(SERVICE_ACCOUNT_ROLE, SERVICE_ACCOUNT_ROLE, OPERATOR, OPERATOR);
    let identity = account(scene.name(), IDENTITY);
    scene.stage().cluster.apply(&format!("{role}\n---\n{binding}\n---\n{identity}")).await?;
    scene.renew("web-tls").await?;
    let operator = service_account(&scene, OPERATOR, OPERATOR).await?;
    until_allowed(&operator, &access("create", "", "serviceaccounts/token", scene.name(), IDENTITY)).await?;
    let accounts = Api::<ServiceAccount>::namespaced(operator, scene.name());
    let policy = format!("tokens.{OPERATOR}.{OPERATOR}.{GROUP}");

    const AUDIENCE: &str = "one audience only: api://AzureADTokenExchange";
    let for_them = |audiences: &[&str]| request(audiences, None);
    let bound = BoundObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Secret".to_owned()),
        name: Some("web-tls".to_owned()),
        uid: None,
    };
    let mut bound_request = for_them(&[TOKEN_AUDIENCE]);
    bound_request.spec.get_or_insert_default().bound_object_ref = Some(bound);
    let rows = [
        ("the API server's own, by default", for_them(&[]), AUDIENCE),
        ("the API server's own", for_them(&[scene.stage().cluster.issuer()]), AUDIENCE),
        ("another service's", for_them(&["https://vault.azure.net"]), AUDIENCE),
        ("a longer word", for_them(&["api://AzureADTokenExchangeX"]), AUDIENCE),
        ("one more behind", for_them(&[TOKEN_AUDIENCE, "other"]), AUDIENCE),
        ("two clouds'", for_them(&[TOKEN_AUDIENCE, "api://AzureADTokenExchangeUSGov"]), AUDIENCE),
        ("one more before", for_them(&["other", TOKEN_AUDIENCE]), AUDIENCE),
        ("a second longer", request(&[TOKEN_AUDIENCE], Some(3601)), "for longer than 3600 s"),
        ("a day", request(&[TOKEN_AUDIENCE], Some(86_400)), "for longer than 3600 s"),
        ("bound to a Secret", bound_request, "leave boundObjectRef out"),
    ];
    for (what, request, words) in rows {
        let outcome = accounts.create_token_request(IDENTITY, &PostParams::default(), &request).await;
        refused(outcome, &policy, words).context(what)?;
    }
    for seconds in [None, Some(600), Some(3600)] {
        let request = request(&[TOKEN_AUDIENCE], seconds);
        let given = accounts.create_token_request(IDENTITY, &PostParams::default(), &request).await?;
        ensure!(given.status.is_some_and(|status| status.token.is_some()), "no token for {seconds:?}");
    }
    for audience in ["api://AzureADTokenExchangeUSGov", "api://AzureADTokenExchangeChina"] {
        let given =
            accounts.create_token_request(IDENTITY, &PostParams::default(), &for_them(&[audience])).await?;
        ensure!(given.status.is_some_and(|status| status.token.is_some()), "no token for {audience}");
    }
    // Another ServiceAccount is not the policy's affair: RBAC names those that there are tokens of.
    let request = for_them(&[TOKEN_AUDIENCE]);
    let outcome = accounts.create_token_request("default", &PostParams::default(), &request).await;
    refused(outcome, "cannot create resource \"serviceaccounts/token\"", "")
}

async fn everybody_elses_tokens_are_their_own_affair(scene: Scene) -> anyhow::Result<()> {
    let tenant = Api::<ServiceAccount>::namespaced(tenant(&scene).await?, scene.name());
    let request = request(&["https://other.example.com", "second"], Some(7200));
    let given = tenant.create_token_request(TENANT, &PostParams::default(), &request).await;
    given.map(drop).context("a tenant's request for his own ServiceAccount")?;
    let arguments =
        ["create", "token", OPERATOR, "--namespace", OPERATOR, "--audience=other", "--duration=2h"];
    let output = scene.stage().cluster.kubectl(&arguments).await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

async fn the_operator_cannot_give_itself_more(scene: Scene) -> anyhow::Result<()> {
    let operator = service_account(&scene, OPERATOR, OPERATOR).await?;
    until_allowed(&operator, &access(rbac::OPERATE, GROUP, rbac::OPERATE_RESOURCE, "", "")).await?;
    let (registration, rbac) = ("admissionregistration.k8s.io", "rbac.authorization.k8s.io");
    let mut rows = Vec::new();
    for verb in ["create", "update", "patch", "delete", "deletecollection"] {
        rows.extend([
            access(verb, "", "secrets", OPERATOR, ""),
            access(verb, "", "configmaps", OPERATOR, ""),
            access(verb, "", "pods", OPERATOR, ""),
            access(verb, GROUP, "keyvaults", "", ""),
            access(verb, GROUP, "keyvaultsyncs", OPERATOR, ""),
            access(verb, GROUP, "clusterkeyvaultsyncs", "", ""),
            access(verb, registration, "validatingadmissionpolicies", "", ""),
            access(verb, registration, "validatingadmissionpolicybindings", "", ""),
            access(verb, rbac, "clusterroles", "", ""),
            access(verb, rbac, "clusterrolebindings", "", ""),
            access(verb, rbac, "rolebindings", OPERATOR, ""),
        ]);
    }
    rows.extend([
        access("impersonate", "", "serviceaccounts", OPERATOR, ""),
        access("create", "", "serviceaccounts/token", OPERATOR, OPERATOR),
        access("create", "", "serviceaccounts/token", "kube-system", "default"),
    ]);
    for row in rows {
        ensure!(!is_allowed(&operator, &row).await?, "the operator may {row:?}");
    }
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "planted"}, "data": {}});
    let secrets = Api::<Secret>::namespaced(operator, scene.name());
    let outcome = secrets.create(&PostParams::default(), &serde_json::from_value(secret)?).await;
    refused(outcome, "cannot create resource \"secrets\"", "")
}

async fn a_second_installation_shares_the_policy_and_is_held_to_its_own(scene: Scene) -> anyhow::Result<()> {
    const SECOND: &str = "second-operator";
    let cluster = &scene.stage().cluster;
    let mut documents = vec![
        account(scene.name(), SECOND),
        account(scene.name(), IDENTITY),
        bind_everywhere(scene.name(), CLUSTER_ROLE, scene.name(), SECOND),
        bind_here("edit", scene.name(), SECOND),
    ];
    for Policy { policy, binding } in
        [admission::operator_only(), admission::token_requests(scene.name(), SECOND)]
    {
        documents.extend([serde_json::to_value(policy)?, serde_json::to_value(binding)?]);
    }
    let documents: Vec<String> = documents.iter().map(Value::to_string).collect();
    cluster.apply(&documents.join("\n---\n")).await?;

    pushed(&scene).await?;
    let second = service_account(&scene, scene.name(), SECOND).await?;
    until_allowed(&second, &access("create", "", "serviceaccounts/token", scene.name(), "")).await?;
    until_allowed(&second, &access(rbac::OPERATE, GROUP, rbac::OPERATE_RESOURCE, "", "")).await?;
    let forged = forged(&scene).await?;
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    Api::<KeyVaultCertificate>::all(second.clone()).create(&dry, &forged).await.context("it operates too")?;

    let policy = format!("tokens.{}.{SECOND}.{GROUP}", scene.name());
    let accounts = Api::<ServiceAccount>::namespaced(second, scene.name());
    let foreign = request(&["other"], None);
    wait::until("its own policy to act", || async {
        let outcome = accounts.create_token_request(IDENTITY, &PostParams::default(), &foreign).await;
        Ok(match refused(outcome, &policy, "one audience only") {
            Ok(()) => Seen::Done(()),
            Err(error) => Seen::NotYet(format!("{error:#}")),
        })
    })
    .await?;
    let request = request(&[TOKEN_AUDIENCE], None);
    let given = accounts.create_token_request(IDENTITY, &PostParams::default(), &request).await;
    given.map(drop).context("its own token")
}

async fn the_plain_manifests_apply_as_they_are(scene: Scene) -> anyhow::Result<()> {
    let cluster = &scene.stage().cluster;
    let manifests = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");
    let overlay = cluster.folder().join("overlay");
    std::fs::create_dir(&overlay)?;
    // kustomize takes relative paths only.
    let up = "../".repeat(overlay.canonicalize()?.components().count() - 1);
    let base = std::path::Path::new(manifests).canonicalize()?.display().to_string();
    let base = format!("{up}{}", base.trim_start_matches('/'));
    let kustomization = json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
        "resources": [base], "components": [format!("{base}/service-account-identities")],
    });
    std::fs::write(overlay.join("kustomization.yaml"), kustomization.to_string())?;
    let overlay = overlay.display().to_string();
    for (folder, count) in [(manifests, 15), (overlay.as_str(), 17)] {
        let arguments =
            ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--output=name", "-k"];
        let output = cluster.kubectl(&[&arguments[..], &[folder]].concat()).await?;
        ensure!(output.status.success(), "{folder}: {}", String::from_utf8_lossy(&output.stderr));
        let names = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(names.lines().count() == count, "{folder}: {names}");
        for name in [OPERATOR_ONLY, "tokens.keyvault-sync.keyvault-sync.keyvaultsync.io"] {
            for kind in ["validatingadmissionpolicy", "validatingadmissionpolicybinding"] {
                ensure!(names.contains(&format!("{kind}.admissionregistration.k8s.io/{name}")), "{names}");
            }
        }
    }
    Ok(())
}

/// A KeyVaultSync `web` whose certificate is in the vault.
async fn pushed(scene: &Scene) -> anyhow::Result<()> {
    let issued = scene.renew("web-tls").await?;
    scene.sync_of("web", &["web-tls"]).await?;
    scene.holds("web", "web-tls", &issued).await.map(drop)
}

/// A claim on another name of our vault in the words of the one that is there.
async fn forged(scene: &Scene) -> anyhow::Result<KeyVaultCertificate> {
    let mut spec = scene.claim("web-tls").await?.spec;
    spec.certificate_name = "forged".to_owned();
    Ok(KeyVaultCertificate::new(&scene.claim_name("forged"), spec))
}

/// The administrator of our namespace, whom a careless administrator of the cluster gave every usual verb on all our kinds.
async fn tenant(scene: &Scene) -> anyhow::Result<Client> {
    let careless = format!("careless-{}", scene.name());
    let resources: Vec<String> = keyvault_sync_api::crds()
        .into_iter()
        .flat_map(|crd| [format!("{}/status", crd.spec.names.plural), crd.spec.names.plural])
        .collect();
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": careless},
        "rules": [{
            "apiGroups": [GROUP],
            "resources": resources,
            "verbs": ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"],
        }],
    });
    let documents = [
        role,
        account(scene.name(), TENANT),
        bind_here("admin", scene.name(), TENANT),
        bind_everywhere(&careless, &careless, scene.name(), TENANT),
    ]
    .map(|document| document.to_string());
    scene.stage().cluster.apply(&documents.join("\n---\n")).await?;
    let client = service_account(scene, scene.name(), TENANT).await?;
    until_allowed(&client, &access("create", GROUP, "keyvaultcertificates", "", "")).await?;
    until_allowed(&client, &access("create", "", "serviceaccounts/token", scene.name(), "")).await?;
    Ok(client)
}

fn account(namespace: &str, name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}})
}

fn bind_everywhere(name: &str, role: &str, namespace: &str, account: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
    })
}

fn bind_here(role: &str, namespace: &str, account: &str) -> Value {
    let mut binding = bind_everywhere(account, role, namespace, account);
    binding["kind"] = json!("RoleBinding");
    binding["metadata"]["namespace"] = json!(namespace);
    binding
}

/// A client with a token of that ServiceAccount.
async fn service_account(scene: &Scene, namespace: &str, name: &str) -> anyhow::Result<Client> {
    let path = scene.stage().cluster.folder().join(format!("{}-{namespace}-{name}.kubeconfig", scene.name()));
    scene.stage().cluster.kubeconfig_for(namespace, name, &path).await?;
    let kubeconfig = Kubeconfig::read_from(&path)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    // The server is on loopback: a proxy of the environment cannot reach it.
    config.proxy_url = None;
    Ok(Client::try_from(config)?)
}

/// `resource` may be `<resource>/<subresource>`; an empty namespace or name is all of them.
fn access(verb: &str, group: &str, resource: &str, namespace: &str, name: &str) -> ResourceAttributes {
    let given = |word: &str| (!word.is_empty()).then(|| word.to_owned());
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    ResourceAttributes {
        verb: given(verb),
        group: given(group),
        resource: given(resource),
        subresource: given(subresource),
        namespace: given(namespace),
        name: given(name),
        ..ResourceAttributes::default()
    }
}

async fn is_allowed(client: &Client, attributes: &ResourceAttributes) -> anyhow::Result<bool> {
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes.clone()),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let answer = Api::all(client.clone()).create(&PostParams::default(), &review).await?;
    Ok(answer.status.context("a review without an answer")?.allowed)
}

/// The API server learns of roles a moment after they are written.
async fn until_allowed(client: &Client, attributes: &ResourceAttributes) -> anyhow::Result<()> {
    wait::until(&format!("{attributes:?} to be allowed"), || async {
        Ok(if is_allowed(client, attributes).await? {
            Seen::Done(())
        } else {
            Seen::NotYet("it is not".to_owned())
        })
    })
    .await
}

fn request(audiences: &[&str], seconds: Option<i64>) -> TokenRequest {
    TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: Some(audiences.iter().map(|audience| (*audience).to_owned()).collect()),
            expiration_seconds: seconds,
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    }
}

fn by_apply() -> PatchParams {
    PatchParams::apply(TENANT).force()
}

/// Checks that this was forbidden, by whom and in which words. What was accepted is not shown: it may be a token.
fn refused<T>(outcome: kube::Result<T>, by: &str, words: &str) -> anyhow::Result<()> {
    match outcome {
        Ok(_) => bail!("accepted, not refused by {by}"),
        Err(kube::Error::Api(refusal)) => {
            let (code, message) = (refusal.code, &refusal.message);
            ensure!(code == 403 && message.contains(by) && message.contains(words), "{code}: {message}");
            Ok(())
        }
        Err(error) => Err(error).context("neither accepted nor refused"),
    }
}
