//! Two clusters before one vault: they do not fight, and the loser is told who owns what.
//! Each has an operator of its own.

use keyvault_sync_e2e::Scene;

keyvault_sync_e2e::promises!(Together: the_stage_stands);

async fn the_stage_stands(scene: Scene) -> anyhow::Result<()> {
    scene.make_namespace("stands").await
}
