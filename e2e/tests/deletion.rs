//! What becomes of the vault when a wish, a Secret or a namespace goes: nothing is deleted because it could not be seen.
//! What stays by `Retain` is left to `claims`.

use keyvault_sync_e2e::Scene;

keyvault_sync_e2e::promises!(Together: the_stage_stands);

async fn the_stage_stands(scene: Scene) -> anyhow::Result<()> {
    scene.make_namespace("stands").await
}
