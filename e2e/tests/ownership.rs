//! Whose a certificate in the vault is: left alone, adopted, inherited, recovered.
//! Two clusters before one vault are left to `two_clusters`.

use keyvault_sync_e2e::Scene;

keyvault_sync_e2e::promises!(Together: the_stage_stands);

async fn the_stage_stands(scene: Scene) -> anyhow::Result<()> {
    scene.make_namespace("stands").await
}
