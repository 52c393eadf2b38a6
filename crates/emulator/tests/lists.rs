//! What lists promise: pages, rows, and tokens that stay right while certificates come and go.
//! Leaves what a single certificate shows to certificates.rs and soft_delete.rs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;

use common::{CLIENT, Key, TENANT, VAULT, World, make, tags};
use reqwest::Method;
use serde_json::Value;

fn pfx() -> Vec<u8> {
    make("web", Key::P256, Key::P256, false).pfx()
}

/// Fills the emptied vault with so many certificates of one content, `web-000` and so on.
fn fill(world: &World, pfx: &[u8], count: usize) {
    world.emulator.add_vault(VAULT, TENANT);
    world.emulator.allow(VAULT, CLIENT, keyvault_emulator::Permissions::all());
    for number in 0..count {
        world.put(&format!("web-{number:03}"), pfx);
    }
}

fn name(row: &Value) -> String {
    row["id"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_page_holds_25_at_most_and_the_last_has_no_next() {
    let world = World::start().await;
    let pfx = pfx();
    let rows: [(usize, &[usize]); 8] = [
        (0, &[0]),
        (1, &[1]),
        (24, &[24]),
        (25, &[25]),
        (26, &[25, 1]),
        (49, &[25, 24]),
        (50, &[25, 25]),
        (51, &[25, 25, 1]),
    ];
    for (count, sizes) in rows {
        // Ascending: what is there stays, as reading a file is slow.
        for number in world.emulator.certificate_names(VAULT).len()..count {
            world.put(&format!("web-{number:03}"), &pfx);
        }
        let pages = world.pages("certificates").await;
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), sizes, "{count} certificates");
        let names: BTreeSet<_> = pages.concat().iter().map(name).collect();
        assert_eq!(names.len(), count, "each comes once");
        world.emulator.certificate_names(VAULT).iter().for_each(|name| {
            assert!(world.emulator.soft_delete(VAULT, name));
        });
        let pages = world.pages("deletedcertificates").await;
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), sizes, "{count} deleted");
        world.emulator.certificate_names(VAULT).iter().for_each(|name| {
            assert!(world.emulator.recover(VAULT, name));
        });
    }
}

#[tokio::test]
async fn the_next_page_is_on_the_same_host_and_keeps_what_was_asked_for() {
    let world = World::start().await;
    fill(&world, &pfx(), 3);
    let port = world.emulator.address().port();
    for base in [format!("https://{VAULT}"), format!("https://{VAULT}:{port}")] {
        let url = format!("{base}/certificates?api-version=7.4&maxresults=2&includePending=true");
        let page = world.request(Method::GET, &url, Some(&world.token()), None).await.ok();
        let next = page["nextLink"].as_str().unwrap();
        assert!(next.starts_with(&format!("{base}/certificates?")), "{next}");
        for part in ["api-version=7.4", "maxresults=2", "$skiptoken=", "includePending=true"] {
            assert!(next.contains(part), "{part} in {next}");
        }
        assert_eq!(page["value"][0]["id"], format!("{base}/certificates/web-000"));
    }
}

#[tokio::test]
async fn a_row_is_the_newest_version_without_its_content() {
    let world = World::start().await;
    let pfx = pfx();
    fill(&world, &pfx, 1);
    world.emulator.copy_version(VAULT, "web-000", tags(&[("team", "web")]));
    let whole = world.get("certificates/web-000").await.ok();
    let row = &world.pages("certificates").await[0][0];
    assert_eq!(row["id"], format!("https://{VAULT}/certificates/web-000"));
    for member in ["attributes", "tags", "x5t"] {
        assert_eq!(row[member], whole[member], "{member}");
    }
    for member in ["cer", "kid", "sid", "policy"] {
        assert!(row[member].is_null(), "{member} in {row}");
    }
}

#[tokio::test]
async fn what_comes_and_goes_between_pages_neither_hides_nor_repeats_anything_else() {
    let world = World::start().await;
    let pfx = pfx();
    for (path, deleted) in [("certificates", false), ("deletedcertificates", true)] {
        fill(&world, &pfx, 60);
        let add = |name: &str| {
            world.put(name, &pfx);
            if deleted {
                world.emulator.soft_delete(VAULT, name);
            }
        };
        if deleted {
            world.emulator.certificate_names(VAULT).iter().for_each(|name| {
                assert!(world.emulator.soft_delete(VAULT, name));
            });
        }
        let first = world.get(path).await.ok();
        assert_eq!(first["value"].as_array().unwrap().last().map(name).as_deref(), Some("web-024"));
        // Before the token, the token's own, after it.
        for gone in ["web-003", "web-024", "web-025", "web-049"] {
            assert!(world.emulator.purge(VAULT, gone));
        }
        for new in ["aaa", "web-003a", "web-030a", "zzz"] {
            add(new);
        }
        let pages = world.pages_after(first).await;
        assert!(pages.iter().all(|rows| rows.len() <= 25));
        let seen: Vec<_> = pages.concat().iter().map(name).collect();
        let mut expected: Vec<_> = (0..60)
            .map(|number| format!("web-{number:03}"))
            .filter(|name| name != "web-025" && name != "web-049")
            .chain(["web-030a".to_owned(), "zzz".to_owned()])
            .collect();
        expected.sort();
        assert_eq!(seen, expected, "{path}");
    }
}

#[tokio::test]
async fn fewer_may_be_asked_for_and_versions_are_listed_alike() {
    let world = World::start().await;
    fill(&world, &pfx(), 45);
    for number in 1..30 {
        world.emulator.copy_version(VAULT, "web-007", tags(&[("number", &number.to_string())]));
    }
    let rows: [(&str, &[usize]); 4] = [
        ("certificates?maxresults=20", &[20, 20, 5]),
        ("certificates?maxresults=25", &[25, 20]),
        ("certificates/web-007/versions", &[25, 5]),
        ("certificates/web-007/versions?maxresults=16", &[16, 14]),
    ];
    for (path, sizes) in rows {
        let pages = world.pages(path).await;
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), sizes, "{path}");
        let ids: BTreeSet<_> = pages.concat().iter().map(name).collect();
        assert_eq!(ids.len(), sizes.iter().sum::<usize>(), "{path} repeats something");
        for row in pages.concat() {
            assert!(row["cer"].is_null() && row["x5t"].is_string(), "{row}");
        }
    }
    for wrong in ["certificates?maxresults=26", "certificates?maxresults=0", "certificates?$skiptoken=%00"] {
        assert_eq!(world.get(wrong).await.refusal(), (400, "BadParameter", ""), "{wrong}");
    }
}
