//! What Entra ID tells of itself, in each cloud and under each of its hosts: what official clients ask for first.
//! Leaves who gets a token to entra.rs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::{Answer, CLIENT, CLOUDS, ENTRA, SECRET, TENANT, World};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use keyvault_emulator::Permissions;
use reqwest::Method;
use serde_json::{Value, json};

async fn get(world: &World, url: &str) -> Answer {
    world.request(Method::GET, url, None, None).await
}

#[tokio::test]
async fn every_host_of_every_cloud_leads_to_a_token_that_the_clouds_vault_takes() {
    let world = World::start().await;
    for cloud in &CLOUDS {
        world.emulator.add_vault(cloud.vault, TENANT);
        world.emulator.allow(cloud.vault, CLIENT, Permissions::all());
        for host in cloud.entra {
            let document = format!("https://{host}/{TENANT}/v2.0/.well-known/openid-configuration");
            let configuration = get(&world, &document).await.ok();
            let endpoint = format!("https://{host}/{TENANT}/oauth2/v2.0/token");
            assert_eq!(configuration["token_endpoint"], endpoint);
            assert_eq!(configuration["issuer"], format!("https://{}/{TENANT}/v2.0", cloud.entra[0]));

            let scope = format!("{}/.default", cloud.audience);
            let form = [
                ("grant_type", "client_credentials"),
                ("client_id", CLIENT),
                ("client_secret", SECRET),
                ("scope", &scope),
            ];
            let token = world.token_request_at(&endpoint, &form).await.ok();
            let token = token["access_token"].as_str().unwrap();
            let keys = get(&world, configuration["jwks_uri"].as_str().unwrap()).await.ok();
            let claims = claims_signed_by(token, &keys);
            assert_eq!(claims["iss"], format!("https://{}/{TENANT}/", cloud.issuer), "{host}");
            assert_eq!(claims["aud"], cloud.audience, "{host}");
            let url = format!("https://{}/certificates?api-version=7.4", cloud.vault);
            world.request(Method::GET, &url, Some(token), None).await.ok();
        }
    }
}

/// The claims of `token`, which the key of the set that its header names must have signed.
fn claims_signed_by(token: &str, keys: &Value) -> Value {
    let kid = jsonwebtoken::decode_header(token).unwrap().kid.unwrap();
    let key = keys["keys"].as_array().unwrap().iter().find(|key| key["kid"] == kid.as_str()).unwrap();
    let jwk: Jwk = serde_json::from_value(key.clone()).unwrap();
    let mut validation = Validation::new(Algorithm::RS256);
    validation.validate_aud = false;
    jsonwebtoken::decode(token, &DecodingKey::from_jwk(&jwk).unwrap(), &validation).unwrap().claims
}

#[tokio::test]
async fn every_host_knows_which_hosts_are_one_cloud() {
    let world = World::start().await;
    for host in CLOUDS.iter().flat_map(|cloud| cloud.entra) {
        let asked = format!("https://{ENTRA}/common/discovery/instance?api-version=1.1");
        let authority = format!("https://{host}/{TENANT}/oauth2/v2.0/authorize");
        let answer = get(&world, &format!("{asked}&authorization_endpoint={authority}")).await.ok();
        assert_eq!(
            answer["tenant_discovery_endpoint"],
            format!("https://{host}/{TENANT}/v2.0/.well-known/openid-configuration")
        );
        let expected: Vec<Value> = CLOUDS
            .iter()
            .map(|cloud| {
                json!({
                    "preferred_network": cloud.entra[0],
                    "preferred_cache": cloud.cache,
                    "aliases": cloud.entra,
                })
            })
            .collect();
        assert_eq!(answer["metadata"], json!(expected));
        let itself = get(&world, &format!("https://{host}/common/discovery/instance")).await.ok();
        let common = itself["tenant_discovery_endpoint"].as_str().unwrap();
        let configuration = get(&world, common).await.ok();
        assert!(configuration["issuer"].as_str().unwrap().ends_with("/{tenantid}/v2.0"), "{configuration}");
    }
}

#[tokio::test]
async fn an_unknown_authority_or_tenant_is_not_described() {
    let world = World::start().await;
    let other = "33333333-3333-3333-3333-333333333333";
    let instance = format!("https://{ENTRA}/common/discovery/instance?authorization_endpoint=");
    let rows = [
        (format!("{instance}https://login.microsoftonline.example/{TENANT}/x"), "invalid_instance", 50049),
        (format!("{instance}https://{ENTRA}.example/{TENANT}/x"), "invalid_instance", 50049),
        (format!("{instance}http://{ENTRA}/{TENANT}/x"), "invalid_instance", 50049),
        (format!("https://{ENTRA}/{other}/v2.0/.well-known/openid-configuration"), "invalid_tenant", 90002),
    ];
    for (url, error, code) in rows {
        let answer = get(&world, &url).await;
        assert_eq!(answer.status, 400, "{url}");
        assert_eq!((&answer.body["error"], &answer.body["error_codes"]), (&json!(error), &json!([code])));
    }
}
