//! Five hundred Secrets in twenty namespaces under one ClusterKeyVaultSync: how many calls, never how long.
//! Memory and speed are left to `cargo xtask bench`.

use keyvault_sync_e2e::Scene;

keyvault_sync_e2e::promises!(Together: the_stage_stands);

async fn the_stage_stands(scene: Scene) -> anyhow::Result<()> {
    scene.make_namespace("stands").await
}
