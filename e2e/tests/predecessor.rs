//! Everything that cert-manager-key-vault-sync got wrong, and the move away from it.
//! Each known failure of it is a test by that name.

use keyvault_sync_e2e::Scene;

keyvault_sync_e2e::promises!(Together: the_stage_stands);

async fn the_stage_stands(scene: Scene) -> anyhow::Result<()> {
    scene.make_namespace("stands").await
}
