//! What somebody changes in the vault is found at the next comparison, repaired once, and told.
//! How many calls a comparison costs is counted.

use keyvault_sync_e2e::Scene;

keyvault_sync_e2e::promises!(Together: the_stage_stands);

async fn the_stage_stands(scene: Scene) -> anyhow::Result<()> {
    scene.make_namespace("stands").await
}
